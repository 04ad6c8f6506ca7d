//! The scenarios, and the checks: the protocol keeps the contract in all of them, and without any one of its rules a
//! scenario violates it.

use stateright::{Checker as _, HasDiscoveries, Model as _};

use crate::{
    contract::{
        CREATED_AGAIN, MARKED, NEW_CALL, NOT_USED_UP, ONE_TENANT, OUTLIVED, REFUSED, REFUSED_THEN_CREATED,
        REPLAY_AFTER_LOSS, REPLAY_WITHOUT_SECRET, REUSED, SAFE, SCOPED, SECRET_OPENS, SPLIT, WITH_SECRET,
        WITHOUT_SECRET,
    },
    database::{RECORD_LIFETIME, Request, Rpc, SECRET_LIFETIME},
    protocol::Scenario,
    rules::Rule,
};

const CALL: Request = Request { caller: 0, rpc: Rpc::CreateFullyProvisioned, id: Some(0), slug: Some(0), name: 0 };
const KEY: Request = Request { rpc: Rpc::CreateApiKey, slug: None, ..CALL };
const OTHER_SLUG: Request = Request { slug: Some(1), ..CALL };
const OTHER_NAME: Request = Request { name: 1, ..CALL };
const OTHER_CALLER: Request = Request { caller: 1, slug: Some(1), ..CALL };
const OTHER_ID: Request = Request { id: Some(1), ..CALL };
const WITHOUT_ID: Request = Request { id: None, ..CALL };

fn scenario(one: &[Request], other: &[Request]) -> Scenario {
    Scenario {
        calls: [one.to_vec(), other.to_vec()],
        attempts: [2, 1],
        servers: 2,
        crashes: 1,
        cuts: 1,
        times: vec![0],
        keys_end: false,
        reached: &[],
        omitted: None,
    }
}

/// Two clients make the same call.
fn identical_calls() -> Scenario {
    Scenario { reached: &[REPLAY_AFTER_LOSS, OUTLIVED], ..scenario(&[CALL], &[CALL]) }
}

fn identical_key_creations() -> Scenario {
    Scenario { reached: &[REPLAY_AFTER_LOSS, OUTLIVED], ..scenario(&[KEY], &[KEY]) }
}

/// Time passes and the key is rotated or revoked between the steps.
fn identical_calls_over_time(call: Request) -> Scenario {
    let times = vec![0, SECRET_LIFETIME, RECORD_LIFETIME];
    let reached =
        if call.slug.is_none() { &[REPLAY_WITHOUT_SECRET, CREATED_AGAIN][..] } else { &[REPLAY_WITHOUT_SECRET] };
    Scenario { times, keys_end: true, servers: 1, crashes: 0, cuts: 0, reached, ..scenario(&[call], &[call]) }
}

/// One request id with two payloads.
fn different_payloads(other: Request) -> Scenario {
    Scenario { reached: &[REFUSED], ..scenario(&[CALL], &[other]) }
}

/// Tenants that share statements, and two replicas that race for a slug: the second client's tenant is in a statement
/// with one that loses its slug.
fn shared_statements() -> Scenario {
    let other = Request { slug: Some(2), ..OTHER_ID };
    Scenario { crashes: 0, reached: &[SPLIT], ..scenario(&[WITHOUT_ID], &[other]) }
}

fn refused_then_repeated() -> Scenario {
    Scenario { reached: &[REFUSED_THEN_CREATED], ..scenario(&[CALL, OTHER_SLUG], &[WITHOUT_ID]) }
}

macro_rules! kept {
    ($($test:ident: $scenario:expr;)*) => {
        $(
            #[test]
            fn $test() {
                let checker = $scenario.checker().spawn_bfs().join();
                println!("{} states", checker.unique_state_count());
                checker.assert_properties();
            }
        )*
    };
}

kept! {
    the_contract_is_kept_for_identical_calls: identical_calls();
    the_contract_is_kept_for_identical_key_creations: identical_key_creations();
    the_contract_is_kept_while_time_passes_and_keys_end: identical_calls_over_time(CALL);
    the_contract_is_kept_while_time_passes_and_created_keys_end: identical_calls_over_time(KEY);
    the_contract_is_kept_for_a_request_id_with_two_slugs: different_payloads(OTHER_SLUG);
    the_contract_is_kept_for_a_request_id_with_two_names: different_payloads(OTHER_NAME);
    the_contract_is_kept_for_a_request_id_of_two_callers: scenario(&[CALL], &[OTHER_CALLER]);
    the_contract_is_kept_for_a_request_id_of_two_rpcs: scenario(&[CALL], &[KEY]);
    the_contract_is_kept_for_a_slug_with_two_request_ids: scenario(&[CALL], &[OTHER_ID]);
    the_contract_is_kept_without_a_request_id: scenario(&[WITHOUT_ID], &[WITHOUT_ID]);
    the_contract_is_kept_for_a_request_id_after_a_refused_call: refused_then_repeated();
    the_contract_is_kept_for_tenants_that_share_a_statement: shared_statements();
}

/// Checks the scenario without the rule. It must violate this sentence of the contract.
fn assert_violated(omitted: Rule, scenario: Scenario, sentence: &'static str) {
    let scenario = Scenario { omitted: Some(omitted), reached: &[], ..scenario };
    let finish = HasDiscoveries::AnyOf([sentence].into());
    let checker = scenario.checker().finish_when(finish).spawn_bfs().join();
    checker.assert_any_discovery(sentence);
}

macro_rules! needed {
    ($($test:ident: $rule:ident, $scenario:expr, $sentence:expr;)*) => {
        $(
            #[test]
            fn $test() {
                assert_violated(Rule::$rule, $scenario, $sentence);
            }
        )*

        /// Every rule has a test: a new rule does not compile here until it has one.
        const _: fn(Rule) = |rule| match rule {
            $(Rule::$rule => {})*
        };
    };
}

needed! {
    without_a_unique_record_two_calls_create_two_keys: RecordIsUnique, identical_key_creations(), ONE_TENANT;
    without_the_caller_in_the_scope_a_caller_is_refused_for_another: ScopeHasCaller, scenario(&[CALL], &[OTHER_CALLER]), SCOPED;
    without_the_rpc_in_the_scope_a_call_is_refused_for_another: ScopeHasRpc, scenario(&[CALL], &[KEY]), SCOPED;
    a_record_committed_before_its_tenant_is_left_behind: RecordIsCommittedWithTenant, identical_calls(), NOT_USED_UP;
    a_record_of_a_refused_call_uses_the_request_id_up: RefusedCallWritesNoRecord, refused_then_repeated(), NOT_USED_UP;
    a_tenant_that_is_skipped_leaves_its_record_behind: LostSlugRollsBack, scenario(&[CALL], &[OTHER_ID]), NOT_USED_UP;
    without_a_try_alone_a_call_fails_for_another: RolledBackIsTriedAlone, shared_statements(), SAFE;
    a_record_that_is_newer_than_the_snapshot_is_not_stray: StrayIsInSnapshot, identical_key_creations(), ONE_TENANT;
    in_an_old_snapshot_a_repeat_does_not_find_its_record: RecordIsReadAfterwards, identical_calls(), SAFE;
    without_the_fingerprint_a_call_gets_what_another_created: FingerprintIsCompared, different_payloads(OTHER_NAME), REUSED;
    with_a_new_salt_a_replay_has_another_secret: SaltIsThatOfRecord, identical_calls(), SECRET_OPENS;
    without_its_salt_a_replay_lacks_the_secret_too_early: SaltIsKeptFor24Hours, identical_calls_over_time(CALL), WITH_SECRET;
    without_the_check_of_24_hours_a_replay_has_the_secret_forever: SecretEndsAfter24Hours, identical_calls_over_time(CALL), WITHOUT_SECRET;
    without_the_check_of_the_key_a_replay_has_a_rotated_secret: SecretEndsWithKey, identical_calls_over_time(CALL), WITHOUT_SECRET;
    without_the_check_of_30_days_a_call_is_never_new: RecordEndsAfter30Days, identical_calls_over_time(CALL), NEW_CALL;
    an_expired_record_that_is_kept_refuses_new_calls: ExpiredRecordIsReplaced, identical_calls_over_time(KEY), SAFE;
    without_the_mark_a_replay_is_not_recognized: ReplayIsMarked, identical_calls(), MARKED;
}
