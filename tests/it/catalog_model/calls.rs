//! Random calls. They draw from few names, slugs and orders, so that conflicts are frequent.

use std::fmt::Debug;

use proptest::{
    collection::vec,
    option::weighted,
    prelude::*,
    sample::{Index, select},
};
use turnkey::grpc::pb::{PackageUpsert, UpsertPackageRequest, UpsertSegmentRequest};

use super::model::{CatalogEntity, Model, Tenant};

const NAMES: [&str; 9] = [
    "Gold",
    "gold",
    " Gold 2 ",
    "Q",
    "Ömer's Café",
    "🎂",
    "General",
    "Basic Package",
    "A day that begins with breakfast, ends with dinner and is full of photographs",
];
const INVALID_NAMES: [&str; 3] = [" ", "Gold\tSilver", "\u{200b}"];
const PACKAGE_SLUGS: [&str; 6] = ["gold", "gold-2", "q-2", "omers-cafe", "general", "basic-package"];
const SEGMENT_SLUGS: [&str; 4] = ["gold", "gold-2", "q-2", "general"];
const INVALID_SLUGS: [&str; 3] = ["ab", "Gold", "gold-"];
const TEXTS: [&str; 4] = ["", "One\n\ttwo", "One\r\ntwo\r", " 🎂 "];
const ORDERS: [i32; 7] = [i32::MIN, -1, 0, 1, 2, 5, i32::MAX];
const SIZES: [i32; 6] = [1, 1, 2, 3, 0, 501];

/// A call for one of the tenants.
#[derive(Debug, Clone)]
pub struct Step {
    /// The index of the tenant, modulo the number of tenants.
    pub tenant: usize,
    /// Replaces the id of the tenant.
    pub tenant_id: Option<&'static str>,
    pub call: Call,
}

#[derive(Debug, Clone)]
pub enum Call {
    UpsertPackage(PackageSpec),
    BatchUpsertPackages(Vec<PackageSpec>),
    GetPackage(Ref),
    DeletePackage(Ref),
    /// One after another, until the last one, which cannot be deleted.
    DeleteAllPackages,
    /// Reads all pages.
    ListPackages {
        segment: Option<Ref>,
        active: Option<bool>,
        size: i32,
        token: Option<Index>,
    },
    UpsertSegment(SegmentSpec),
    GetSegment(Ref),
    DeleteSegment(Ref),
    /// Reads all pages.
    ListSegments {
        size: i32,
        token: Option<Index>,
    },
    /// Continues a list from the page token of any earlier response.
    ContinueList {
        token: Index,
        size: i32,
    },
}

/// An id that is resolved when the call is made.
#[derive(Debug, Clone)]
pub enum Ref {
    Own(Index),
    /// The part of the tenant that was created or changed last.
    Latest,
    Foreign(Index),
    Deleted(Index),
    Malformed,
    Empty,
}

/// An upsert whose ids are not resolved yet.
#[derive(Debug, Clone)]
pub struct PackageSpec {
    package: Option<Ref>,
    segment: Option<Ref>,
    item: PackageUpsert,
}

/// An upsert whose ids are not resolved yet.
#[derive(Debug, Clone)]
pub struct SegmentSpec {
    segment: Option<Ref>,
    request: UpsertSegmentRequest,
}

impl Ref {
    pub fn id<T: CatalogEntity>(&self, model: &Model, tenant: usize, entities: fn(&Tenant) -> &Vec<T>) -> String {
        let pick = |tenant: usize, index: &Index| index.get(entities(&model.tenants[tenant])).id().to_owned();
        match self {
            Self::Own(index) => pick(tenant, index),
            Self::Latest => {
                entities(&model.tenants[tenant]).last().map(|entity| entity.id().to_owned()).unwrap_or_default()
            }
            Self::Foreign(index) => pick((tenant + 1) % model.tenants.len(), index),
            Self::Deleted(index) => index.get(&model.deleted_ids).clone(),
            Self::Malformed => "0192B1A0-7C3E-7DEF-8123-456789ABCDEF".to_owned(),
            Self::Empty => String::new(),
        }
    }
}

impl PackageSpec {
    pub fn item(&self, model: &Model, tenant: usize) -> PackageUpsert {
        PackageUpsert {
            package_id: self.package.as_ref().map(|package| package.id(model, tenant, |tenant| &tenant.packages)),
            segment_id: self.segment.as_ref().map(|segment| segment.id(model, tenant, |tenant| &tenant.segments)),
            ..self.item.clone()
        }
    }
}

impl SegmentSpec {
    pub fn request(&self, model: &Model, tenant: usize, tenant_id: &str) -> UpsertSegmentRequest {
        UpsertSegmentRequest {
            tenant_id: tenant_id.to_owned(),
            segment_id: self.segment.as_ref().map(|segment| segment.id(model, tenant, |tenant| &tenant.segments)),
            ..self.request.clone()
        }
    }
}

/// The item of a batch as a single call.
#[expect(deprecated, reason = "the deprecated names are still accepted")]
pub fn single(tenant_id: &str, item: PackageUpsert) -> UpsertPackageRequest {
    UpsertPackageRequest {
        tenant_id: tenant_id.to_owned(),
        package_id: item.package_id,
        slug: item.slug,
        name: item.name,
        title: item.title,
        description: item.description,
        base_price: item.base_price,
        price_cents: item.price_cents,
        booking_type: item.booking_type,
        active: item.active,
        grouping_order: item.grouping_order,
        segment_id: item.segment_id,
        validate_only: item.validate_only,
        etag: item.etag,
        external_id: item.external_id,
    }
}

pub fn steps() -> impl Strategy<Value = Vec<Step>> {
    let invalid_tenant = weighted(0.03, select(vec!["0192b1a0-7c3e-7def-8123-456789abcdef", "bella"]));
    let tenant = prop_oneof![3 => Just(0), 2 => 0..3_usize];
    let step = (tenant, invalid_tenant, call()).prop_map(|(tenant, tenant_id, call)| Step { tenant, tenant_id, call });
    vec(step, 1..=25)
}

fn call() -> impl Strategy<Value = Call> {
    let size = || rarely_invalid(&SIZES, -1);
    let token = || weighted(0.1, any::<Index>());
    prop_oneof![
        10 => package().prop_map(Call::UpsertPackage),
        8 => batch().prop_map(Call::BatchUpsertPackages),
        2 => reference().prop_map(Call::GetPackage),
        2 => reference().prop_map(Call::DeletePackage),
        1 => Just(Call::DeleteAllPackages),
        3 => (weighted(0.4, reference()), weighted(0.3, any::<bool>()), size(), token())
            .prop_map(|(segment, active, size, token)| Call::ListPackages { segment, active, size, token }),
        8 => segment().prop_map(Call::UpsertSegment),
        1 => reference().prop_map(Call::GetSegment),
        3 => reference().prop_map(Call::DeleteSegment),
        1 => (size(), token()).prop_map(|(size, token)| Call::ListSegments { size, token }),
        2 => (any::<Index>(), size()).prop_map(|(token, size)| Call::ContinueList { token, size }),
    ]
}

fn reference() -> impl Strategy<Value = Ref> {
    prop_oneof![
        25 => any::<Index>().prop_map(Ref::Own),
        15 => Just(Ref::Latest),
        2 => any::<Index>().prop_map(Ref::Foreign),
        2 => any::<Index>().prop_map(Ref::Deleted),
        1 => Just(Ref::Malformed),
        1 => Just(Ref::Empty),
    ]
}

fn batch() -> impl Strategy<Value = Vec<PackageSpec>> {
    prop_oneof![1 => Just(Vec::new()), 30 => vec(package(), 1..=4)]
}

fn package() -> impl Strategy<Value = PackageSpec> {
    let price = || rarely_invalid(&[0, 100, 1_000_000_000_000], 1_000_000_000_001);
    let names =
        (weighted(0.4, slug(&PACKAGE_SLUGS)), weighted(0.9, name()), weighted(0.1, name()), weighted(0.2, text()));
    let prices = (weighted(0.9, price()), weighted(0.1, price()));
    let others =
        (rarely_invalid(&[0, 0, 1, 2], 3), weighted(0.3, any::<bool>()), weighted(0.3, select(ORDERS.to_vec())));
    let ids = (weighted(0.3, reference()), weighted(0.4, reference()));
    (ids, names, prices, others).prop_map(|(ids, names, prices, others)| {
        #[expect(deprecated, reason = "the deprecated names are still accepted")]
        let item = PackageUpsert {
            slug: names.0,
            name: names.1,
            title: names.2,
            description: names.3,
            base_price: prices.0,
            price_cents: prices.1,
            booking_type: others.0,
            active: others.1,
            grouping_order: others.2,
            ..PackageUpsert::default()
        };
        PackageSpec { package: ids.0, segment: ids.1, item }
    })
}

fn segment() -> impl Strategy<Value = SegmentSpec> {
    let texts =
        (weighted(0.5, slug(&SEGMENT_SLUGS)), weighted(0.9, name()), weighted(0.2, name()), weighted(0.2, text()));
    let others = (weighted(0.3, select(ORDERS.to_vec())), weighted(0.3, any::<bool>()));
    (weighted(0.4, reference()), texts, others).prop_map(|(segment, texts, others)| {
        let request = UpsertSegmentRequest {
            slug: texts.0,
            name: texts.1,
            hero_title: texts.2,
            description: texts.3,
            sort_order: others.0,
            active: others.1,
            ..UpsertSegmentRequest::default()
        };
        SegmentSpec { segment, request }
    })
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![40 => select(NAMES.to_vec()), 1 => select(INVALID_NAMES.to_vec()), 2 => Just("")]
        .prop_map(str::to_owned)
}

fn slug(valid: &[&'static str]) -> impl Strategy<Value = String> + use<> {
    prop_oneof![30 => select(valid.to_vec()), 1 => select(INVALID_SLUGS.to_vec()), 2 => Just("")]
        .prop_map(str::to_owned)
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![30 => select(TEXTS.to_vec()), 1 => Just("One\u{7}two")].prop_map(str::to_owned)
}

fn rarely_invalid<T: Clone + Debug + 'static>(valid: &[T], invalid: T) -> impl Strategy<Value = T> + use<T> {
    prop_oneof![40 => select(valid.to_vec()), 1 => Just(invalid)]
}
