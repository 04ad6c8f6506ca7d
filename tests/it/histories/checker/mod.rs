//! The checker itself: it accepts a history that an order explains, and refuses one with a lost change, a stale read, a
//! duplicate, or events that do not agree.

mod owners;
mod purges;

use prost::Message as _;
use prost_types::{FileDescriptorSet, MethodDescriptorProto, method_options::IdempotencyLevel};
use turnkey::grpc::pb::DESCRIPTORS;

use super::{
    history::{Call, ItemView, Operation, Outcome, Response, TenantView},
    model::{Change, Origin},
    search::check,
};

fn origin() -> Origin {
    Origin { slug: "bella".to_owned(), name: "Bella".to_owned(), owner: None }
}

fn view(name: &str, etag: &str) -> TenantView {
    let (id, name, etag) = ("t".to_owned(), name.to_owned(), etag.to_owned());
    TenantView { id, name, is_active: true, is_deleted: false, owner: None, is_owner_verified: false, etag }
}

fn operation(call: Call, outcome: Outcome, invoked: u64, returned: u64) -> Operation {
    Operation { tenant_id: "t".to_owned(), call, outcome, invoked, returned }
}

fn ok(call: Call, response: Response, invoked: u64, returned: u64) -> Operation {
    operation(call, Outcome::Ok(response), invoked, returned)
}

fn created(replayed: bool, invoked: u64, returned: u64) -> Operation {
    let response = Response::Created { tenant: view("Bella", "1"), secret: Some("s".to_owned()), replayed };
    ok(Call::Create, response, invoked, returned)
}

fn rename(name: &str) -> Call {
    Call::Rename { name: name.to_owned(), etag: None }
}

fn rename_if(name: &str, etag: &str) -> Call {
    Call::Rename { name: name.to_owned(), etag: Some(etag.to_owned()) }
}

fn read(name: &str, etag: &str, invoked: u64, returned: u64) -> Operation {
    ok(Call::GetTenant, Response::Tenant(view(name, etag)), invoked, returned)
}

fn tenant_created() -> Change {
    Change::new("tenant.created", &[("slug", "bella"), ("tenant_id", "t"), ("public_key", "pk")])
}

fn renamed(name: &str) -> Change {
    Change::new("tenant.updated", &[("name", name)])
}

fn is_explained(operations: &[Operation], changes: &[Change]) -> bool {
    let result = check(&origin(), operations, changes);
    result.inspect_err(|violation| assert!(violation.has_tried_all, "the search was too long")).is_ok()
}

#[test]
fn the_clients_call_every_rpc_that_changes_something() {
    let calls = [
        include_str!("../clients/calls.rs"),
        include_str!("../clients/catalog.rs"),
        include_str!("../clients/owners.rs"),
    ];
    let is_read = |method: &MethodDescriptorProto| {
        let options = method.options.as_ref();
        options.is_some_and(|options| options.idempotency_level() == IdempotencyLevel::NoSideEffects)
    };
    let files = FileDescriptorSet::decode(DESCRIPTORS).unwrap().file.into_iter();
    let services = files.filter(|file| file.package() == "turnkey.v1").flat_map(|file| file.service);
    let methods = services.flat_map(|service| service.method).filter(|method| !is_read(method));
    for method in methods {
        let function = method.name().char_indices().fold(String::new(), |name, (index, letter)| {
            let is_next_word = letter.is_uppercase() && index > 0;
            name + if is_next_word { "_" } else { "" } + &letter.to_lowercase().to_string()
        });
        assert!(calls.iter().any(|calls| calls.contains(&format!("client.{function}("))), "{function}");
    }
}

#[test]
fn a_history_is_accepted_if_concurrent_calls_have_an_order() {
    let history = [
        created(false, 0, 1),
        ok(rename("A"), Response::Tenant(view("A", "2")), 2, 9),
        ok(rename("B"), Response::Tenant(view("B", "3")), 3, 8),
        read("Bella", "1", 4, 5),
        read("B", "3", 6, 7),
        read("A", "2", 10, 11),
    ];
    assert!(is_explained(&history, &[tenant_created(), renamed("B"), renamed("A")]));
    assert!(!is_explained(&history, &[tenant_created(), renamed("A"), renamed("B")]), "events in another order");
}

#[test]
fn a_lost_change_is_refused() {
    let change = ok(rename("A"), Response::Tenant(view("A", "2")), 2, 3);
    let history = [created(false, 0, 1), change.clone()];
    assert!(is_explained(&history, &[tenant_created(), renamed("A")]));
    assert!(!is_explained(&history, &[tenant_created()]), "without its event");
    let history = [created(false, 0, 1), change, read("Bella", "1", 4, 5)];
    assert!(!is_explained(&history, &[tenant_created(), renamed("A")]), "and read without it");
}

#[test]
fn a_stale_read_is_refused() {
    let change = ok(rename("A"), Response::Tenant(view("A", "2")), 2, 5);
    let during = [created(false, 0, 1), change.clone(), read("A", "2", 3, 4), read("A", "2", 6, 7)];
    let changes = [tenant_created(), renamed("A")];
    assert!(is_explained(&during, &changes));
    let stale = [created(false, 0, 1), change, read("A", "2", 3, 4), read("Bella", "1", 6, 7)];
    assert!(!is_explained(&stale, &changes));
}

#[test]
fn a_duplicate_is_refused() {
    let history = [created(false, 0, 1), created(false, 2, 3)];
    assert!(!is_explained(&history, &[tenant_created()]), "two calls created the tenant");
    assert!(is_explained(&[created(false, 0, 1), created(true, 2, 3)], &[tenant_created()]));
    let history = [created(false, 0, 1), ok(rename("A"), Response::Tenant(view("A", "2")), 2, 3)];
    assert!(!is_explained(&history, &[tenant_created(), renamed("A"), renamed("A")]), "one call, two events");
}

#[test]
fn a_replay_with_another_secret_is_refused() {
    let response = Response::Created { tenant: view("Bella", "1"), secret: Some("x".to_owned()), replayed: true };
    let history = [created(false, 0, 1), ok(Call::Create, response, 2, 3)];
    assert!(!is_explained(&history, &[tenant_created()]));
}

#[test]
fn a_call_without_a_response_has_happened_if_it_has_an_event() {
    let unknown = operation(rename("A"), Outcome::Unknown, 2, 3);
    let history = [created(false, 0, 1), unknown.clone(), read("Bella", "1", 4, 5)];
    assert!(is_explained(&history, &[tenant_created()]));
    assert!(is_explained(&history, &[tenant_created(), renamed("A")]), "after the read");
    let history = [created(false, 0, 1), unknown, read("A", "2", 4, 5), read("Bella", "1", 6, 7)];
    assert!(!is_explained(&history, &[tenant_created(), renamed("A")]), "not undone");
}

#[test]
fn two_changes_with_one_etag_are_refused() {
    let mismatch = Outcome::Refused("ETAG_MISMATCH".to_owned());
    let first = ok(rename_if("A", "1"), Response::Tenant(view("A", "2")), 2, 5);
    let changes = [tenant_created(), renamed("A")];
    assert!(is_explained(
        &[created(false, 0, 1), first.clone(), operation(rename_if("B", "1"), mismatch, 3, 4)],
        &changes
    ));
    let second = ok(rename_if("B", "1"), Response::Tenant(view("B", "3")), 3, 4);
    let changes = [tenant_created(), renamed("A"), renamed("B")];
    assert!(!is_explained(&[created(false, 0, 1), first, second], &changes));
}

#[test]
fn a_package_that_comes_back_after_its_deletion_is_refused() {
    let item = ItemView { id: "p".to_owned(), slug: "gold".to_owned(), value: "7".to_owned(), etag: "1".to_owned() };
    let upsert = Call::UpsertPackages { items: vec![("gold".to_owned(), 7)], etag: None };
    let upserted = ok(upsert, Response::Upserted(vec![(true, item.clone())]), 2, 3);
    let delete = ok(Call::DeletePackage { id: "p".to_owned(), etag: None }, Response::Empty, 4, 5);
    let changes = [
        tenant_created(),
        Change::new("package.created", &[("slug", "gold"), ("base_price", "7"), ("package_id", "p")]),
        Change::new("package.deleted", &[("package_id", "p")]),
    ];
    let history = [created(false, 0, 1), upserted, delete];
    assert!(is_explained(&history, &changes));
    let other = |slug: &str| ItemView { id: slug.to_owned(), slug: slug.to_owned(), ..item.clone() };
    let mut listed = vec![other("basic-package"), other("standard-package"), other("premium-package")];
    let list = |items: Vec<ItemView>| ok(Call::ListPackages, Response::Items(items), 6, 7);
    assert!(is_explained(&[&history[..], &[list(listed.clone())]].concat(), &changes));
    listed.push(item);
    assert!(!is_explained(&[&history[..], &[list(listed)]].concat(), &changes));
}
