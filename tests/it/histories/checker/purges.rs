//! The rules of purges, repairs and rotations of one key.

use super::{created, is_explained, ok, operation, read, tenant_created, view};
use crate::histories::{
    history::{Call, ItemView, Operation, Outcome, Response, TenantView},
    model::Change,
};

fn deleted(invoked: u64, returned: u64) -> Operation {
    let tenant = TenantView { is_deleted: true, ..view("Bella", "2") };
    ok(Call::Delete { etag: None }, Response::Tenant(tenant), invoked, returned)
}

fn purged(invoked: u64, returned: u64) -> Operation {
    ok(Call::Purge, Response::Empty, invoked, returned)
}

fn refused(call: Call, reason: &str, invoked: u64, returned: u64) -> Operation {
    operation(call, Outcome::Refused(reason.to_owned()), invoked, returned)
}

fn tenant_deleted() -> Change {
    Change::new("tenant.deleted", &[])
}

fn tenant_purged() -> Change {
    Change::new("tenant.purged", &[("tenant_id", "t")])
}

#[test]
fn a_tenant_that_is_read_after_its_purge_is_refused() {
    let history = [created(false, 0, 1), deleted(2, 3), purged(4, 5)];
    let changes = [tenant_created(), tenant_deleted(), tenant_purged()];
    let then = |operation: Operation| is_explained(&[&history[..], &[operation]].concat(), &changes);
    assert!(then(refused(Call::GetTenant, "TENANT_NOT_FOUND", 6, 7)));
    assert!(then(refused(Call::Purge, "TENANT_NOT_FOUND", 6, 7)));
    assert!(!then(read("Bella", "2", 6, 7)));
    assert!(!then(purged(6, 7)), "purged twice");
    let key = |verdict| ok(Call::VerifyKey { public_key: "pk".to_owned() }, Response::Verdict(verdict), 6, 7);
    assert!(then(key("VERDICT_INVALID")));
    assert!(!then(key("VERDICT_VALID")));
    assert!(!is_explained(&history, &changes[..2]), "without its event");
    assert!(!is_explained(&[created(false, 0, 1), purged(2, 3)], &[tenant_created(), tenant_purged()]), "not deleted");
}

#[test]
fn a_purged_tenant_that_comes_back_with_a_repeat_of_its_creation_is_refused() {
    let history = [created(false, 0, 1), deleted(2, 3), purged(4, 5)];
    let changes = [tenant_created(), tenant_deleted(), tenant_purged()];
    assert!(!is_explained(&[&history[..], &[created(true, 6, 7)]].concat(), &changes));
    let other = TenantView { id: "u".to_owned(), ..view("Bella", "9") };
    let again = |replayed| {
        let response = Response::Created { tenant: other.clone(), secret: Some("x".to_owned()), replayed };
        [&history[..], &[ok(Call::Create, response, 6, 7)]].concat()
    };
    let recreated = Change::new("tenant.created", &[("slug", "bella"), ("tenant_id", "u"), ("public_key", "pk-2")]);
    let changes = [&changes[..], &[recreated]].concat();
    assert!(is_explained(&again(false), &changes), "the slug is free");
    assert!(!is_explained(&again(true), &changes));
    let of_the_first = read("Bella", "9", 8, 9);
    assert!(!is_explained(&[&again(false)[..], &[of_the_first]].concat(), &changes), "by the id of the first one");
}

#[test]
fn a_slug_that_is_taken_by_the_tenant_itself_is_refused_except_while_it_is_purged() {
    let taken = |invoked, returned| refused(Call::Create, "SLUG_TAKEN", invoked, returned);
    let changes = [tenant_created(), tenant_deleted(), tenant_purged()];
    let during = [created(false, 0, 1), deleted(2, 3), purged(4, 7), taken(5, 6)];
    assert!(is_explained(&during, &changes));
    let after = [created(false, 0, 1), deleted(2, 3), purged(4, 5), taken(6, 7)];
    assert!(!is_explained(&after, &changes));
    assert!(!is_explained(&[created(false, 0, 1), deleted(2, 3), taken(4, 5)], &changes[..2]), "without a purge");
}

fn repaired(packages: Vec<ItemView>, invoked: u64, returned: u64) -> Operation {
    ok(Call::Repair, Response::Repaired { tenant: view("Bella", "1"), packages }, invoked, returned)
}

fn packages() -> Vec<ItemView> {
    let package = |slug: &str| {
        let slug = slug.to_owned();
        ItemView { id: slug.clone(), etag: slug.clone(), slug, value: "0".to_owned() }
    };
    ["basic-package", "standard-package", "premium-package"].map(package).to_vec()
}

fn tenant_repaired(packages_created: &str) -> Change {
    Change::new("tenant.repaired", &[("packages_created", packages_created)])
}

#[test]
fn a_repair_that_changes_an_intact_tenant_is_refused() {
    assert!(is_explained(&[created(false, 0, 1), repaired(Vec::new(), 2, 3)], &[tenant_created()]));
    let changes = [tenant_created(), tenant_repaired("3")];
    assert!(!is_explained(&[created(false, 0, 1), repaired(Vec::new(), 2, 3)], &changes));
    assert!(!is_explained(&[created(false, 0, 1), repaired(packages(), 2, 3)], &changes));
}

#[test]
fn a_repair_that_leaves_a_tenant_without_packages_is_refused() {
    let list = |items, invoked, returned| ok(Call::ListPackages, Response::Items(items), invoked, returned);
    let damaged = [created(false, 0, 1), ok(Call::Damage, Response::Empty, 2, 3), list(Vec::new(), 4, 5)];
    let changes = [tenant_created(), tenant_repaired("3")];
    let healed = [&damaged[..], &[repaired(packages(), 6, 7), list(packages(), 8, 9)]].concat();
    assert!(is_explained(&healed, &changes));
    assert!(is_explained(&[&healed[..], &[repaired(Vec::new(), 10, 11)]].concat(), &changes), "repeated");
    assert!(!is_explained(&[&damaged[..], &[repaired(Vec::new(), 6, 7)]].concat(), &changes[..1]), "without a repair");
    assert!(!is_explained(&[&healed[..], &[repaired(packages(), 10, 11)]].concat(), &changes), "repaired twice");
    let unknown = operation(Call::Damage, Outcome::Unknown, 2, 3);
    assert!(is_explained(&[created(false, 0, 1), unknown.clone(), list(Vec::new(), 4, 5)], &changes[..1]));
    assert!(is_explained(&[created(false, 0, 1), unknown, list(packages(), 4, 5)], &changes[..1]));
    assert!(!is_explained(&[created(false, 0, 1), list(Vec::new(), 4, 5)], &changes[..1]), "not damaged");
}

#[test]
fn the_last_package_that_is_deleted_is_refused() {
    let delete = |slug: &str| Call::DeletePackage { id: slug.to_owned(), etag: None };
    let list = ok(Call::ListPackages, Response::Items(packages()), 2, 3);
    let but_one = [
        created(false, 0, 1),
        list,
        ok(delete("basic-package"), Response::Empty, 4, 5),
        ok(delete("standard-package"), Response::Empty, 6, 7),
    ];
    let deleted = |slug: &str| Change::new("package.deleted", &[("package_id", slug)]);
    let changes = [tenant_created(), deleted("basic-package"), deleted("standard-package"), deleted("premium-package")];
    let kept = refused(delete("premium-package"), "LAST_PACKAGE", 8, 9);
    assert!(is_explained(&[&but_one[..], &[kept]].concat(), &changes[..3]));
    let gone = ok(delete("premium-package"), Response::Empty, 8, 9);
    assert!(!is_explained(&[&but_one[..], &[gone]].concat(), &changes));
}

#[test]
fn a_key_that_is_replaced_twice_is_refused() {
    let rotate = |request_id: &str, invoked, returned| {
        let replaced = Some("pk".to_owned());
        let call = Call::Rotate { request_id: request_id.to_owned(), replaced, at_once: false };
        let secret = Some(format!("sk-{request_id}"));
        ok(call, Response::Key { public_key: format!("pk-{request_id}"), secret, replayed: false }, invoked, returned)
    };
    let rotated = |public_key: &str| Change::new("api_key.rotated", &[("public_key", public_key)]);
    let changes = [tenant_created(), rotated("pk-1"), rotated("pk-2")];
    let history = [created(false, 0, 1), rotate("1", 2, 5), rotate("2", 3, 4)];
    assert!(is_explained(&history[..2], &changes[..2]));
    assert!(!is_explained(&history, &changes));
    let ended = refused(history[2].call.clone(), "API_KEY_ENDED", 3, 4);
    assert!(is_explained(&[history[0].clone(), history[1].clone(), ended], &changes[..2]));
}
