//! `UpdateTenant`: what is present changes, and nothing else.

use prost_types::{ListValue, Struct, Value, value::Kind};
use time::Duration;
use tonic::{Code, Status};
use turnkey::grpc::pb::{DeleteTenantRequest, Tenant, UpdateTenantRequest, get_tenant_request::Identifier};

use crate::fixture::{Fixture, reason, violations};

impl Fixture {
    async fn update(&self, request: UpdateTenantRequest) -> Result<Tenant, Status> {
        let answer = self.provisioning.clone().update_tenant(request).await?;
        Ok(answer.into_inner().tenant.unwrap())
    }
}

fn update(tenant_id: &str) -> UpdateTenantRequest {
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
async fn present_fields_change_and_absent_ones_do_not() {
    let fixture = Fixture::start().await;
    let id = fixture.tenant("bella-weddings").await.id;
    let before = fixture.get(Identifier::TenantId(id.clone())).await.unwrap();
    fixture.advance_clock(Duration::minutes(1));

    let named = fixture.update(UpdateTenantRequest { name: Some(" Bella ".to_owned()), ..update(&id) }).await.unwrap();
    let expected = Tenant { name: "Bella".to_owned(), updated_at: named.updated_at, ..before };
    assert_eq!(named, expected);
    assert!(named.updated_at.unwrap().seconds >= named.created_at.unwrap().seconds + 60);

    let zero = UpdateTenantRequest { commission_percent: Some(0.0), ..update(&id) };
    let changed = fixture.update(zero).await.unwrap();
    assert_eq!(changed, Tenant { commission_percent: 0.0, updated_at: changed.updated_at, ..expected });

    let both = UpdateTenantRequest { name: Some("B".to_owned()), commission_percent: Some(12.34), ..update(&id) };
    let changed = fixture.update(both).await.unwrap();
    assert_eq!((changed.name.as_str(), changed.commission_percent), ("B", 12.34));
    assert_eq!(fixture.get(Identifier::TenantId(id)).await.unwrap(), changed);
}

#[tokio::test]
async fn what_is_so_already_leaves_the_tenant_as_it_is() {
    let fixture = Fixture::start().await;
    let id = fixture.tenant("bella-weddings").await.id;
    let before = fixture.get(Identifier::TenantId(id.clone())).await.unwrap();
    fixture.advance_clock(Duration::minutes(1));
    let same = UpdateTenantRequest {
        name: Some("Bella Weddings".to_owned()),
        commission_percent: Some(10.0),
        branding: Some(Struct::default()),
        ..update(&id)
    };
    assert_eq!(fixture.update(same).await.unwrap(), before);
}

#[tokio::test]
async fn branding_is_any_object_and_replaces_the_one_before() {
    let fixture = Fixture::start().await;
    let id = fixture.tenant("bella-weddings").await.id;
    let with = |branding: Struct| UpdateTenantRequest { branding: Some(branding), ..update(&id) };
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
    assert_eq!(fixture.update(with(rich.clone())).await.unwrap().branding.unwrap(), rich);
    let read = fixture.get(Identifier::TenantId(id.clone())).await.unwrap();
    assert_eq!(read.branding.unwrap(), rich);

    let other = object([("logo", text("bella.svg"))]);
    assert_eq!(fixture.update(with(other.clone())).await.unwrap().branding.unwrap(), other, "not merged");
    let cleared = fixture.update(with(Struct::default())).await.unwrap();
    assert_eq!(cleared.branding.unwrap().fields.len(), 0);
}

#[tokio::test]
async fn branding_is_bounded_in_size_and_depth_and_holds_what_json_can_say() {
    let fixture = Fixture::start().await;
    let id = fixture.tenant("bella-weddings").await.id;
    let with = |branding: Struct| UpdateTenantRequest { branding: Some(branding), ..update(&id) };
    let nested =
        |levels: usize| (1..levels).fold(Struct::default(), |inner, _| object([("in", Kind::StructValue(inner))]));
    assert!(fixture.update(with(nested(16))).await.is_ok());
    assert!(fixture.update(with(object([("a", text(&"x".repeat(65_536 - 8)))]))).await.is_ok());
    for (branding, why) in [
        (nested(17), "OUT_OF_RANGE"),
        (object([("a", text(&"x".repeat(65_536 - 7)))]), "TOO_LONG"),
        (object([("a", text("\0"))]), "BAD_FORMAT"),
        (object([("\0", text("a"))]), "BAD_FORMAT"),
        (object([("a", Kind::NumberValue(f64::NAN))]), "BAD_FORMAT"),
        (Struct { fields: [("a".to_owned(), Value { kind: None })].into() }, "BAD_FORMAT"),
    ] {
        let refused = fixture.update(with(branding)).await.unwrap_err();
        assert_eq!(violations(&refused), [("branding".to_owned(), why.to_owned())]);
    }
}

#[tokio::test]
async fn a_request_that_changes_nothing_and_one_with_bad_fields_are_refused() {
    let fixture = Fixture::start().await;
    let id = fixture.tenant("bella-weddings").await.id;
    let refused = fixture.update(update(&id)).await.unwrap_err();
    assert_eq!(violations(&refused), [("name".to_owned(), "MISSING_FIELD".to_owned())]);
    let bad = UpdateTenantRequest { name: Some(String::new()), commission_percent: Some(12.345), ..update("42") };
    let refused = fixture.update(bad).await.unwrap_err();
    let expected = [("tenant_id", "BAD_FORMAT"), ("name", "MISSING_FIELD"), ("commission_percent", "BAD_FORMAT")];
    assert_eq!(violations(&refused), expected.map(|(field, why)| (field.to_owned(), why.to_owned())));
}

#[tokio::test]
async fn a_deleted_and_an_unknown_tenant_are_not_found() {
    let fixture = Fixture::start().await;
    let id = fixture.tenant("bella-weddings").await.id;
    let request = DeleteTenantRequest { tenant_id: id.clone() };
    fixture.provisioning.clone().delete_tenant(request).await.unwrap();
    for gone in [id, uuid::Uuid::new_v4().to_string()] {
        let request = UpdateTenantRequest { name: Some("Bella".to_owned()), ..update(&gone) };
        let refused = fixture.update(request).await.unwrap_err();
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::NotFound, "TENANT_NOT_FOUND"));
    }
}
