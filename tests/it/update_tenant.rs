//! `UpdateTenant`: only the present fields change.

use prost_types::{ListValue, Struct, Value, value::Kind};
use time::Duration;
use tonic::{Code, Status};
use turnkey::grpc::pb::{Tenant, UpdateTenantRequest, get_tenant_request::Identifier};

use crate::support::{
    fixture::Fixture,
    responses::{reason, violations},
};

async fn update(fixture: &Fixture, request: UpdateTenantRequest) -> Result<Tenant, Status> {
    Ok(fixture.provisioning.clone().update_tenant(request).await?.into_inner().tenant.unwrap())
}

fn request(tenant_id: &str) -> UpdateTenantRequest {
    UpdateTenantRequest { tenant_id: tenant_id.to_owned(), ..UpdateTenantRequest::default() }
}

fn object<const N: usize>(members: [(&str, Kind); N]) -> Struct {
    let member = |(key, kind): (&str, Kind)| (key.to_owned(), Value { kind: Some(kind) });
    Struct { fields: members.into_iter().map(member).collect() }
}

fn text(text: &str) -> Kind {
    Kind::StringValue(text.to_owned())
}

#[tokio::test]
async fn an_update_changes_present_fields_of_a_tenant_and_no_others() {
    let fixture = Fixture::start().await;
    let id = fixture.tenant("bella-weddings").await.id;
    let before = fixture.get(Identifier::TenantId(id.clone())).await.unwrap();
    fixture.advance_clock(Duration::minutes(1));

    let named =
        update(&fixture, UpdateTenantRequest { name: Some(" Bella ".to_owned()), ..request(&id) }).await.unwrap();
    let expected =
        Tenant { name: "Bella".to_owned(), updated_at: named.updated_at, etag: named.etag.clone(), ..before };
    assert_eq!(named, expected);
    assert!(named.updated_at.unwrap().seconds >= named.created_at.unwrap().seconds + 60);

    let zero = UpdateTenantRequest { commission_percent: Some(0.0), ..request(&id) };
    let changed = update(&fixture, zero).await.unwrap();
    assert_eq!(
        changed,
        Tenant { commission_percent: 0.0, updated_at: changed.updated_at, etag: changed.etag.clone(), ..expected }
    );

    let both = UpdateTenantRequest { name: Some("B".to_owned()), commission_percent: Some(12.34), ..request(&id) };
    let changed = update(&fixture, both).await.unwrap();
    assert_eq!((changed.name.as_str(), changed.commission_percent), ("B", 12.34));
    assert_eq!(fixture.get(Identifier::TenantId(id)).await.unwrap(), changed);
}

#[tokio::test]
async fn an_update_with_equal_values_changes_nothing_not_even_updated_at() {
    let fixture = Fixture::start().await;
    let id = fixture.tenant("bella-weddings").await.id;
    let before = fixture.get(Identifier::TenantId(id.clone())).await.unwrap();
    fixture.advance_clock(Duration::minutes(1));
    let same = UpdateTenantRequest {
        name: Some("Bella Weddings".to_owned()),
        commission_percent: Some(10.0),
        branding: Some(Struct::default()),
        ..request(&id)
    };
    assert_eq!(update(&fixture, same).await.unwrap(), before);
}

#[tokio::test]
async fn branding_can_be_any_json_object_and_is_replaced_as_a_whole() {
    let fixture = Fixture::start().await;
    let id = fixture.tenant("bella-weddings").await.id;
    let with = |branding: Struct| UpdateTenantRequest { branding: Some(branding), ..request(&id) };
    let list = ListValue { values: vec![Value { kind: Some(Kind::NullValue(0)) }, Value { kind: Some(text("x")) }] };
    let rich = object([
        ("colors", Kind::StructValue(object([("primary", text("#aa3366"))]))),
        ("ratio", Kind::NumberValue(1.618_033_988_749_895)),
        ("whole", Kind::NumberValue(7.0)),
        ("tiny", Kind::NumberValue(5e-324)),
        ("huge", Kind::NumberValue(f64::MAX)),
        ("dark", Kind::BoolValue(true)),
        ("list", Kind::ListValue(list)),
        ("emoji 🎂", text("\u{1}\u{7f}🎂\"\\")),
    ]);
    assert_eq!(update(&fixture, with(rich.clone())).await.unwrap().branding.unwrap(), rich);
    let read = fixture.get(Identifier::TenantId(id.clone())).await.unwrap();
    assert_eq!(read.branding.unwrap(), rich);

    let other = object([("logo", text("bella.svg"))]);
    assert_eq!(
        update(&fixture, with(other.clone())).await.unwrap().branding.unwrap(),
        other,
        "the objects are not merged"
    );
    let cleared = update(&fixture, with(Struct::default())).await.unwrap();
    assert_eq!(cleared.branding.unwrap().fields.len(), 0);
}

#[tokio::test]
async fn branding_is_limited_in_size_and_depth_and_to_what_json_can_represent() {
    let fixture = Fixture::start().await;
    let id = fixture.tenant("bella-weddings").await.id;
    let with = |branding: Struct| UpdateTenantRequest { branding: Some(branding), ..request(&id) };
    let nested =
        |depth: usize| (1..depth).fold(Struct::default(), |inner, _| object([("in", Kind::StructValue(inner))]));
    assert!(update(&fixture, with(nested(16))).await.is_ok());
    assert!(update(&fixture, with(object([("a", text(&"x".repeat(65_536 - 8)))]))).await.is_ok());
    let list_of = |length| {
        let zeros = ListValue { values: vec![Value { kind: Some(Kind::NumberValue(0.0)) }; length] };
        object([("a", Kind::ListValue(zeros))])
    };
    assert!(update(&fixture, with(list_of(1_999))).await.is_ok());
    for (branding, why) in [
        (nested(17), "OUT_OF_RANGE"),
        (object([("a", text(&"x".repeat(65_536 - 7)))]), "TOO_LONG"),
        (list_of(2_000), "TOO_LONG"),
        (object([("a", text("\0"))]), "BAD_FORMAT"),
        (object([("\0", text("a"))]), "BAD_FORMAT"),
        (object([("a", Kind::NumberValue(f64::NAN))]), "BAD_FORMAT"),
        (Struct { fields: [("a".to_owned(), Value { kind: None })].into() }, "BAD_FORMAT"),
    ] {
        let error = update(&fixture, with(branding)).await.unwrap_err();
        assert_eq!(violations(&error), [("branding".to_owned(), why.to_owned())]);
    }
}

#[tokio::test]
async fn an_update_without_fields_or_with_invalid_fields_is_rejected() {
    let fixture = Fixture::start().await;
    let id = fixture.tenant("bella-weddings").await.id;
    let error = update(&fixture, request(&id)).await.unwrap_err();
    assert_eq!(violations(&error), [("name".to_owned(), "MISSING_FIELD".to_owned())]);
    let invalid = UpdateTenantRequest { name: Some(String::new()), commission_percent: Some(12.345), ..request("42") };
    let error = update(&fixture, invalid).await.unwrap_err();
    let expected = [("tenant_id", "BAD_FORMAT"), ("name", "MISSING_FIELD"), ("commission_percent", "BAD_FORMAT")];
    assert_eq!(violations(&error), expected.map(|(field, why)| (field.to_owned(), why.to_owned())));
    let empty = UpdateTenantRequest { name: Some(String::new()), ..request(&id) };
    assert_eq!(update(&fixture, empty).await.unwrap_err().message(), "name must not be empty");
    let invisible = UpdateTenantRequest { name: Some("\u{200b}".to_owned()), ..request(&id) };
    let error = update(&fixture, invisible).await.unwrap_err();
    assert_eq!(violations(&error), [("name".to_owned(), "BAD_FORMAT".to_owned())]);
}

#[tokio::test]
async fn updating_a_deleted_or_unknown_tenant_is_not_found() {
    let fixture = Fixture::start().await;
    let id = fixture.tenant("bella-weddings").await.id;
    fixture.delete_tenant(&id).await.unwrap();
    for tenant_id in [id, uuid::Uuid::new_v4().to_string()] {
        let rename = UpdateTenantRequest { name: Some("Bella".to_owned()), ..request(&tenant_id) };
        let error = update(&fixture, rename).await.unwrap_err();
        assert_eq!((error.code(), reason(&error).as_str()), (Code::NotFound, "TENANT_NOT_FOUND"));
    }
}

#[tokio::test]
async fn a_branding_patch_changes_the_members_that_it_names_and_removes_those_that_are_null() {
    let fixture = Fixture::start().await;
    let id = fixture.tenant("bella-weddings").await.id;
    let colors = |members: Struct| object([("colors", Kind::StructValue(members))]);
    let stored = colors(object([("primary", text("red")), ("accent", text("blue"))]));
    update(&fixture, UpdateTenantRequest { branding: Some(stored), ..request(&id) }).await.unwrap();

    let patch = colors(object([("primary", text("green")), ("accent", Kind::NullValue(0))]));
    let patch = UpdateTenantRequest { branding_patch: Some(patch), ..request(&id) };
    let patched = update(&fixture, patch.clone()).await.unwrap();
    assert_eq!(patched.branding, Some(colors(object([("primary", text("green"))]))));
    assert_eq!(fixture.get(Identifier::TenantId(id.clone())).await.unwrap(), patched);
    assert_eq!(update(&fixture, patch.clone()).await.unwrap(), patched, "a repeat changes nothing");

    let renamed = UpdateTenantRequest { name: Some("Bella".to_owned()), etag: Some(patched.etag), ..patch.clone() };
    let changed = update(&fixture, renamed.clone()).await.unwrap();
    assert_eq!((changed.name.as_str(), changed.branding), ("Bella", patched.branding));
    let outdated = update(&fixture, renamed).await.unwrap_err();
    assert_eq!((outdated.code(), reason(&outdated).as_str()), (Code::Aborted, "ETAG_MISMATCH"));
    let both = update(&fixture, UpdateTenantRequest { branding: Some(Struct::default()), ..patch.clone() }).await;
    assert_eq!(violations(&both.unwrap_err()), [("branding_patch".to_owned(), "BAD_FORMAT".to_owned())]);

    let large = object([("text", text(&"x".repeat(65_000)))]);
    update(&fixture, UpdateTenantRequest { branding: Some(large), ..request(&id) }).await.unwrap();
    let more = object([("more", text(&"x".repeat(1_000)))]);
    let too_long = update(&fixture, UpdateTenantRequest { branding_patch: Some(more), ..request(&id) }).await;
    assert_eq!(violations(&too_long.unwrap_err()), [("branding_patch".to_owned(), "TOO_LONG".to_owned())]);

    fixture.delete_tenant(&id).await.unwrap();
    assert_eq!(update(&fixture, patch).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn concurrent_patches_of_one_branding_are_all_applied() {
    let fixture = Fixture::start().await;
    let id = fixture.tenant("bella-weddings").await.id;
    let names = ["a", "b", "c", "d"];
    let patches = names.map(|name| {
        let branding_patch = Some(object([(name, text(name))]));
        update(&fixture, UpdateTenantRequest { branding_patch, ..request(&id) })
    });
    for result in futures_util::future::join_all(patches).await {
        result.unwrap();
    }
    let branding = fixture.get(Identifier::TenantId(id)).await.unwrap().branding;
    assert_eq!(branding, Some(object(names.map(|name| (name, text(name))))));
}
