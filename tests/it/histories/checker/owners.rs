//! The rules of owners.

use turnkey::grpc::pb::OwnerTokenPurpose;

use super::{created, is_explained, ok, operation, tenant_created, view};
use crate::{
    histories::{
        history::{Call, Operation, Outcome, Response, TenantView},
        model::Change,
    },
    support::owners::BELLA,
};

const OMER: &str = "omer@example.com";

fn set_owner(email: &str, password: Option<&str>, etag: &str, invoked: u64, returned: u64) -> Operation {
    let call = Call::SetOwner { email: email.to_owned(), password: password.map(str::to_owned) };
    let tenant = TenantView { owner: Some(email.to_owned()), ..view("Bella", etag) };
    ok(call, Response::Tenant(tenant), invoked, returned)
}

fn owner_set(is_new_address: &str, has_password: &str) -> Change {
    Change::new("owner.set", &[("is_new_address", is_new_address), ("has_password", has_password)])
}

fn owner(is_valid: bool) -> Response {
    Response::Owner(is_valid.then(|| "t".to_owned()))
}

fn log_in(password: &str, is_valid: bool, invoked: u64, returned: u64) -> Operation {
    let call = Call::VerifyPassword { email: BELLA.to_owned(), password: password.to_owned() };
    ok(call, owner(is_valid), invoked, returned)
}

fn token(purpose: OwnerTokenPurpose) -> Call {
    Call::CreateOwnerToken { email: BELLA.to_owned(), purpose }
}

fn reset_token(text: &str, invoked: u64, returned: u64) -> Operation {
    ok(token(OwnerTokenPurpose::ResetPassword), Response::Token(Some(text.to_owned())), invoked, returned)
}

fn reset(token: &str, new_password: &str, is_valid: bool, invoked: u64, returned: u64) -> Operation {
    let (token, new_password) = (token.to_owned(), new_password.to_owned());
    ok(Call::ResetPassword { token, new_password }, owner(is_valid), invoked, returned)
}

fn change(current: &str, new: &str, is_valid: bool, invoked: u64, returned: u64) -> Operation {
    let (email, current, new) = (BELLA.to_owned(), current.to_owned(), new.to_owned());
    ok(Call::ChangePassword { email, current, new }, owner(is_valid), invoked, returned)
}

fn event(kind: &str) -> Change {
    Change::new(kind, &[("public_key", "pk")])
}

/// Bella's tenant has her as the owner, with the password `old`. What follows begins at 4.
fn with_owner(more: &[Operation]) -> Vec<Operation> {
    [&[created(false, 0, 1), set_owner(BELLA, Some("old"), "2", 2, 3)], more].concat()
}

fn with_owner_set(more: &[Change]) -> Vec<Change> {
    [&[tenant_created(), owner_set("true", "true")], more].concat()
}

fn first_reset() -> [Change; 3] {
    [event("owner.password_changed"), event("owner.email_verified"), event("api_key.revoked")]
}

#[test]
fn a_password_that_is_not_in_force_is_refused() {
    assert!(is_explained(&with_owner(&[log_in("old", true, 4, 5), log_in("new", false, 6, 7)]), &with_owner_set(&[])));
    assert!(!is_explained(&with_owner(&[log_in("new", true, 4, 5)]), &with_owner_set(&[])));
    assert!(!is_explained(&with_owner(&[log_in("old", false, 4, 5)]), &with_owner_set(&[])));
    let replaced = [set_owner(OMER, None, "3", 4, 5), log_in("old", true, 6, 7)];
    let changes = with_owner_set(&[owner_set("true", "false")]);
    assert!(is_explained(&with_owner(&replaced[..1]), &changes));
    assert!(!is_explained(&with_owner(&replaced), &changes), "of an earlier owner");
}

#[test]
fn a_change_of_a_password_with_a_wrong_one_and_one_that_is_lost_are_refused() {
    let changes = with_owner_set(&[event("owner.password_changed")]);
    let kept = [change("old", "new", true, 4, 5), log_in("new", true, 6, 7)];
    assert!(is_explained(&with_owner(&kept), &changes));
    assert!(!is_explained(&with_owner(&kept), &with_owner_set(&[])), "without its event");
    assert!(!is_explained(&with_owner(&[change("x", "new", true, 4, 5)]), &changes));
    let lost = [change("old", "new", true, 4, 5), log_in("old", true, 6, 7)];
    assert!(!is_explained(&with_owner(&lost), &changes));
    let twice = [change("old", "new", true, 4, 7), change("old", "newer", true, 5, 6)];
    assert!(!is_explained(&with_owner(&twice), &[&changes[..], &changes[2..]].concat()), "only one had the old one");
}

#[test]
fn a_token_that_two_resets_use_is_refused() {
    let changes = with_owner_set(&first_reset());
    let once = [reset_token("own", 4, 5), reset("own", "a", true, 6, 9), reset("own", "b", false, 7, 8)];
    assert!(is_explained(&with_owner(&once), &changes));
    let repeated = [reset_token("own", 4, 5), reset("own", "a", true, 6, 9), reset("own", "a", true, 7, 8)];
    assert!(is_explained(&with_owner(&repeated), &changes), "with the same password");
    let twice = [reset_token("own", 4, 5), reset("own", "a", true, 6, 9), reset("own", "b", true, 7, 8)];
    let changes = [&changes[..], &[event("owner.password_changed")]].concat();
    assert!(!is_explained(&with_owner(&twice), &changes));
}

#[test]
fn a_reset_that_leaves_a_key_of_an_unverified_address_is_refused() {
    let history = with_owner(&[reset_token("own", 4, 5), reset("own", "a", true, 6, 7)]);
    assert!(is_explained(&history, &with_owner_set(&first_reset())));
    assert!(!is_explained(&history, &with_owner_set(&first_reset()[..2])));
}

#[test]
fn a_void_token_that_is_valid_is_refused() {
    let events = first_reset();
    let replaced = [reset_token("first", 4, 5), reset_token("second", 6, 7), reset("first", "a", true, 8, 9)];
    assert!(!is_explained(&with_owner(&replaced), &with_owner_set(&events)), "replaced by a newer one");
    let concurrent = [reset_token("first", 4, 7), reset_token("second", 5, 6), reset("first", "a", true, 8, 9)];
    assert!(is_explained(&with_owner(&concurrent), &with_owner_set(&events)), "which may be the older one");
    let older = [reset_token("own", 4, 5), change("old", "new", true, 6, 7), reset("own", "a", true, 8, 9)];
    let changes = with_owner_set(&[&[event("owner.password_changed")], &events[..]].concat());
    assert!(!is_explained(&with_owner(&older), &changes), "the password was changed");
    let set = [reset_token("own", 4, 5), set_owner(BELLA, None, "2", 6, 7), reset("own", "a", true, 8, 9)];
    let changes = with_owner_set(&[&[owner_set("false", "false")], &events[..]].concat());
    assert!(!is_explained(&with_owner(&set), &changes), "the owner was set again");
}

#[test]
fn a_token_whose_response_was_lost_may_have_voided_an_older_one() {
    let lost = operation(token(OwnerTokenPurpose::ResetPassword), Outcome::Unknown, 6, 7);
    let history = |is_valid| with_owner(&[reset_token("own", 4, 5), lost.clone(), reset("own", "a", is_valid, 8, 9)]);
    assert!(is_explained(&history(true), &with_owner_set(&first_reset())));
    assert!(is_explained(&history(false), &with_owner_set(&[])));
    let without = with_owner(&[reset_token("own", 4, 5), reset("own", "a", false, 8, 9)]);
    assert!(!is_explained(&without, &with_owner_set(&[])), "nothing has voided it");
}

#[test]
fn many_tokens_whose_responses_were_lost_do_not_make_the_search_long() {
    let tokens = (0..30).flat_map(|number| {
        let at = 4 + 4 * number;
        let lost = operation(token(OwnerTokenPurpose::ResetPassword), Outcome::Unknown, at + 2, at + 3);
        [reset_token(&format!("own{number}"), at, at + 1), lost]
    });
    let history =
        |is_valid| with_owner(&tokens.clone().chain([reset("own0", "a", is_valid, 200, 201)]).collect::<Vec<_>>());
    assert!(is_explained(&history(false), &with_owner_set(&[])));
    assert!(!is_explained(&history(true), &with_owner_set(&first_reset())), "a later token voids it");
}

#[test]
fn an_address_that_is_verified_twice_or_by_the_token_of_a_reset_is_refused() {
    let verify = |text: &str, invoked, returned| {
        ok(Call::VerifyEmail { token: text.to_owned() }, owner(true), invoked, returned)
    };
    let created = ok(token(OwnerTokenPurpose::VerifyEmail), Response::Token(Some("own".to_owned())), 4, 5);
    let history = with_owner(&[created, verify("own", 6, 7), verify("own", 8, 9)]);
    let verified = event("owner.email_verified");
    assert!(is_explained(&history, &with_owner_set(std::slice::from_ref(&verified))));
    assert!(!is_explained(&history, &with_owner_set(&[verified.clone(), verified.clone()])));
    let mixed_up = with_owner(&[reset_token("own", 4, 5), verify("own", 6, 7)]);
    assert!(!is_explained(&mixed_up, &with_owner_set(&[verified])));
}

#[test]
fn an_owner_who_is_set_without_an_event_is_refused_unless_nothing_changes() {
    let again =
        |password, etag| with_owner(&[set_owner(BELLA, None, "2", 4, 5), set_owner(BELLA, password, etag, 6, 7)]);
    let changes = with_owner_set(&[owner_set("false", "false")]);
    assert!(is_explained(&again(None, "2"), &changes), "the same owner");
    assert!(!is_explained(&again(None, "3"), &changes), "another etag");
    assert!(!is_explained(&again(Some("new"), "2"), &changes), "another password");
    let voids =
        with_owner(&[set_owner(BELLA, None, "2", 4, 5), reset_token("own", 6, 7), set_owner(BELLA, None, "2", 8, 9)]);
    assert!(!is_explained(&voids, &changes), "the token is void");
}
