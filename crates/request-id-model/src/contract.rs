//! What the contract says about request ids, sentence by sentence, as properties of every reachable state.

use stateright::Property;

use crate::{
    database::{RECORD_LIFETIME, Request, SECRET_LIFETIME, Secret, Tenant},
    protocol::{Answer, Response, Scenario, State},
};

pub const ONE_TENANT: &str = "identical calls create one tenant";
pub const SAME_RESPONSE: &str = "a repeat gets the same tenant, the same key and the same secret";
pub const SECRET_OPENS: &str = "the secret of every response opens the tenant";
pub const MARKED: &str = "a repeat has replayed = true";
pub const WITH_SECRET: &str = "a replay has the secret for 24 hours";
pub const WITHOUT_SECRET: &str = "after 24 h, or once that key was rotated or revoked, secret_key is empty";
pub const NEW_CALL: &str = "after 30 days the record is deleted and the call is a new one";
pub const NO_RECORD: &str = "without a request_id, a repeat is ALREADY_EXISTS";
pub const SCOPED: &str = "a request_id is scoped to the caller and the RPC";
pub const REUSED: &str = "the same id with a different payload is REQUEST_ID_REUSED";
pub const NOT_USED_UP: &str = "a call that fails does not use its request_id up";
pub const SAFE: &str = "a retry is always safe: ALREADY_EXISTS is only for what another call created";
pub const ACKNOWLEDGED: &str = "what a response contains is in the database";

/// The contract. Each must hold in every state.
pub fn sentences() -> Vec<Property<Scenario>> {
    vec![
        Property::always(ONE_TENANT, |_: &Scenario, state: &State| {
            pairs(&state.database.tenants)
                .all(|(one, other)| !is_same_scope(one.request, other.request) || !one.is_within_lifetime_of(other))
        }),
        Property::always(SAME_RESPONSE, |_: &Scenario, state: &State| {
            let answers: Vec<Answer> = answers(state).collect();
            pairs(&answers).all(|(one, other)| {
                let (Some((one_id, one_secret)), Some((other_id, other_secret))) = (created(one), created(other))
                else {
                    return true;
                };
                let is_repeat = is_same_scope(one.request, other.request);
                let is_same = one_id == other_id
                    && (one_secret.is_none() || other_secret.is_none() || one_secret == other_secret);
                !is_repeat || is_same || is_expired_between(state, one_id, other_id)
            })
        }),
        Property::always(SECRET_OPENS, |_: &Scenario, state: &State| {
            tenants(state)
                .all(|(answer, tenant)| created(&answer).and_then(|it| it.1).is_none_or(|it| it == tenant.secret))
        }),
        Property::always(MARKED, |_: &Scenario, state: &State| {
            tenants(state).all(|(answer, tenant)| {
                matches!(answer.response, Response::Ok { replayed, .. } if replayed == (answer.attempt != tenant.id))
            })
        }),
        Property::always(WITH_SECRET, |_: &Scenario, state: &State| {
            replays(state).all(|(secret, age, has_ended)| secret || age >= SECRET_LIFETIME || has_ended)
        }),
        Property::always(WITHOUT_SECRET, |_: &Scenario, state: &State| {
            replays(state).all(|(secret, age, has_ended)| !secret || age < SECRET_LIFETIME && !has_ended)
        }),
        Property::always(NEW_CALL, |_: &Scenario, state: &State| {
            replays(state).all(|(_, age, _)| age < RECORD_LIFETIME) && state.has_only_useful_records()
        }),
        Property::always(NO_RECORD, |_: &Scenario, state: &State| {
            tenants(state).all(|(answer, tenant)| answer.request.id.is_some() || answer.attempt == tenant.id)
        }),
        Property::always(SCOPED, |_: &Scenario, state: &State| {
            tenants(state).all(|(answer, tenant)| is_same_caller(answer.request, tenant.request))
                && reused(state)
                    .all(|answer| state.database.tenants.iter().any(|it| is_same_caller(answer.request, it.request)))
        }),
        Property::always(REUSED, |_: &Scenario, state: &State| {
            tenants(state).all(|(answer, tenant)| answer.request.fingerprint() == tenant.request.fingerprint())
        }),
        Property::always(NOT_USED_UP, |_: &Scenario, state: &State| {
            let has_tenant =
                |answer: Answer| state.database.tenants.iter().any(|it| is_same_scope(answer.request, it.request));
            reused(state).all(has_tenant)
                && state.database.records.iter().all(|record| state.database.tenant(record.created).is_some())
        }),
        Property::always(SAFE, |_: &Scenario, state: &State| {
            let mut refused = answers(state).filter(|answer| answer.response == Response::AlreadyExists);
            refused.all(|answer| state.database.tenants.iter().any(|tenant| is_reason(tenant, &answer)))
        }),
        Property::always(ACKNOWLEDGED, |_: &Scenario, state: &State| {
            answers(state).filter_map(|answer| created(&answer)).all(|(id, _)| state.database.tenant(id).is_some())
        }),
    ]
}

pub const REPLAY_AFTER_LOSS: &str = "a client gets the secret by a repeat after it lost the response";
pub const REPLAY_WITHOUT_SECRET: &str = "a replay has no secret any more";
pub const CREATED_AGAIN: &str = "a call is a new one after 30 days";
pub const SPLIT: &str = "the tenants of a shared statement are tried alone";
pub const OUTLIVED: &str = "a statement is committed after its server crashed";
pub const REFUSED_THEN_CREATED: &str = "a request id is used after a call with it was refused";
pub const REFUSED: &str = "a request id is refused for another payload";

/// What must be reachable, so that the sentences do not hold only because nothing happens.
pub fn situations() -> Vec<Property<Scenario>> {
    vec![
        Property::sometimes(REPLAY_AFTER_LOSS, |_: &Scenario, state: &State| {
            state.clients.iter().any(|client| {
                client.has_lost_response
                    && client
                        .answers
                        .iter()
                        .any(|answer| matches!(answer.response, Response::Ok { secret: Some(_), replayed: true, .. }))
            })
        }),
        Property::sometimes(REPLAY_WITHOUT_SECRET, |_: &Scenario, state: &State| {
            replays(state).any(|(secret, ..)| !secret)
        }),
        Property::sometimes(CREATED_AGAIN, |_: &Scenario, state: &State| {
            pairs(&state.database.tenants).any(|(one, other)| is_same_scope(one.request, other.request))
        }),
        Property::sometimes(SPLIT, |_: &Scenario, state: &State| state.has_split_a_statement),
        Property::sometimes(OUTLIVED, |_: &Scenario, state: &State| state.has_outlived_its_server),
        Property::sometimes(REFUSED_THEN_CREATED, |_: &Scenario, state: &State| {
            state.clients.iter().any(|client| {
                let refused = client.answers.iter().position(|it| it.response == Response::AlreadyExists);
                refused.is_some_and(|refused| client.answers[refused..].iter().any(|it| created(it).is_some()))
            })
        }),
        Property::sometimes(REFUSED, |_: &Scenario, state: &State| reused(state).next().is_some()),
    ]
}

impl State {
    /// A record that was deleted or replaced is not needed any more. Its tenant shows that it existed.
    fn has_only_useful_records(&self) -> bool {
        self.database.records.iter().all(|record| {
            let newest = self.database.tenants.iter().filter(|tenant| tenant.request.scope(None) == Some(record.scope));
            newest.map(|tenant| tenant.created_at).max().is_none_or(|newest| newest <= record.created_at)
        })
    }
}

fn answers(state: &State) -> impl Iterator<Item = Answer> {
    state.clients.iter().flat_map(|client| client.answers.iter().copied())
}

/// The successful responses, each with its tenant.
fn tenants(state: &State) -> impl Iterator<Item = (Answer, &Tenant)> {
    answers(state).filter_map(|answer| Some((answer, state.database.tenant(created(&answer)?.0)?)))
}

fn reused(state: &State) -> impl Iterator<Item = Answer> {
    answers(state).filter(|answer| answer.response == Response::RequestIdReused)
}

/// Of each replay: whether it has a secret, the age of its record, and whether its key had ended.
fn replays(state: &State) -> impl Iterator<Item = (bool, u16, bool)> {
    tenants(state).filter(|(answer, tenant)| answer.attempt != tenant.id).filter_map(|(answer, _)| {
        match answer.response {
            Response::Ok { secret, age, key_has_ended, .. } => Some((secret.is_some(), age, key_has_ended)),
            _ => None,
        }
    })
}

fn created(answer: &Answer) -> Option<(u8, Option<Secret>)> {
    match answer.response {
        Response::Ok { id, secret, .. } => Some((id, secret)),
        _ => None,
    }
}

/// Whether the tenant is a reason for `ALREADY_EXISTS`: another call created it, or the call itself so long ago that
/// its record has expired. Of a key, which has no slug, only a record that expired during the call is one.
fn is_reason(tenant: &Tenant, answer: &Answer) -> bool {
    let has_expired = |time: u16| time.abs_diff(tenant.created_at) >= RECORD_LIFETIME;
    let has_slug = tenant.request.slug.is_some();
    tenant.request.slug == answer.request.slug
        && (!is_same_scope(answer.request, tenant.request)
            || has_expired(answer.at) && (has_slug || !has_expired(answer.from)))
}

fn is_same_caller(one: Request, other: Request) -> bool {
    (one.caller, one.rpc) == (other.caller, other.rpc)
}

fn is_same_scope(one: Request, other: Request) -> bool {
    one.id.is_some() && one.scope(None) == other.scope(None)
}

/// Whether the later tenant belongs to a new call, because the record of the earlier one had expired.
fn is_expired_between(state: &State, one: u8, other: u8) -> bool {
    let tenants = state.database.tenant(one).zip(state.database.tenant(other));
    tenants.is_some_and(|(one, other)| !one.is_within_lifetime_of(other))
}

fn pairs<T>(all: &[T]) -> impl Iterator<Item = (&T, &T)> {
    all.iter().enumerate().flat_map(|(number, one)| all[number + 1..].iter().map(move |other| (one, other)))
}
