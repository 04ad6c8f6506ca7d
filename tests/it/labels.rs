//! Labels of tenants: set on creation or replaced as a whole, and lists of the tenants that have them.

use std::collections::BTreeMap;

use prost::Message as _;
use tonic::{Code, Response, Status};
use turnkey::grpc::pb::{
    BatchCreateFullyProvisionedRequest, BatchCreateFullyProvisionedResult, CreateFullyProvisionedRequest,
    ListTenantsRequest, PurgeTenantRequest, Tenant, UpdateTenantRequest,
    batch_create_fully_provisioned_result::Result as BatchResult, get_tenant_request::Identifier,
    tenant_provisioning_client::TenantProvisioningClient,
};
use uuid::Uuid;

use crate::support::{
    citus::citus_bin,
    connect::over_connect,
    fixture::{Fixture, settings, with_http},
    requests::{named, request_id, with_bearer},
    responses::{reason, violations},
    tokens::Tokens,
};

fn labels(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
    labels.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn labeled(slug: &str, of_tenant: &[(&str, &str)]) -> CreateFullyProvisionedRequest {
    CreateFullyProvisionedRequest { labels: labels(of_tenant), ..named(slug) }
}

async fn update(fixture: &Fixture, request: UpdateTenantRequest) -> Result<Tenant, Status> {
    Ok(fixture.provisioning.clone().update_tenant(request).await?.into_inner().tenant.unwrap())
}

fn replace(tenant_id: &str, new: &[(&str, &str)]) -> UpdateTenantRequest {
    UpdateTenantRequest { tenant_id: tenant_id.to_owned(), labels: labels(new), ..UpdateTenantRequest::default() }
}

fn clear(tenant_id: &str) -> UpdateTenantRequest {
    UpdateTenantRequest { clear_labels: true, ..replace(tenant_id, &[]) }
}

fn with_labels(selected: &[(&str, &str)]) -> ListTenantsRequest {
    ListTenantsRequest { labels: labels(selected), ..ListTenantsRequest::default() }
}

/// The slugs on all pages.
async fn slugs(fixture: &Fixture, mut request: ListTenantsRequest) -> Vec<String> {
    let mut slugs = Vec::new();
    loop {
        let page = fixture.provisioning.clone().list_tenants(request.clone()).await.unwrap().into_inner();
        slugs.extend(page.tenants.into_iter().map(|tenant| tenant.slug));
        if page.next_page_token.is_empty() {
            return slugs;
        }
        request.page_token = page.next_page_token;
    }
}

#[tokio::test]
async fn a_tenant_is_created_with_labels_alone_and_in_a_batch() {
    let fixture = Fixture::start().await;
    let of_bella = [("plan", "pro"), ("a.b_c-9", ""), ("note", " \"ü\" {} \\ ")];
    let validate = CreateFullyProvisionedRequest { validate_only: true, ..labeled("bella", &of_bella) };
    assert_eq!(fixture.create(validate).await.unwrap().tenant.unwrap().labels, labels(&of_bella));
    assert_eq!(fixture.count("tenant_labels").await, 0);
    let created = fixture.create(labeled("bella", &of_bella)).await.unwrap().tenant.unwrap();
    assert_eq!(created.labels, labels(&of_bella));
    assert_eq!(fixture.get(Identifier::TenantId(created.id.clone())).await.unwrap(), created);

    let requests = vec![labeled("one", &[("plan", "pro")]), named("two"), labeled("three", &[("Plan", "pro")])];
    let batch = BatchCreateFullyProvisionedRequest { requests };
    let results = fixture.provisioning.clone().batch_create_fully_provisioned(batch).await.unwrap().into_inner();
    let results = results.results.into_iter().map(|item| match item.result.unwrap() {
        BatchResult::Provisioned(created) => Ok(created.tenant.unwrap().labels),
        BatchResult::Error(error) => Err(error.field_violations[0].field.clone()),
    });
    let expected = [Ok(labels(&[("plan", "pro")])), Ok(BTreeMap::new()), Err("labels[Plan]".to_owned())];
    assert_eq!(results.collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn labels_are_part_of_the_request_that_a_request_id_repeats() {
    let fixture = Fixture::start().await;
    let request_id = Some(Uuid::new_v4().to_string());
    let request = CreateFullyProvisionedRequest { request_id, ..labeled("bella", &[("plan", "pro")]) };
    let created = fixture.create(request.clone()).await.unwrap();
    let replay = fixture.create(request.clone()).await.unwrap();
    assert_eq!((replay.replayed, &replay.tenant), (true, &created.tenant));
    for other in [&[][..], &[("plan", "")], &[("pla", "npro")], &[("plan", "pro"), ("x", "")]] {
        let other = CreateFullyProvisionedRequest { labels: labels(other), ..request.clone() };
        assert_eq!(reason(&fixture.create(other).await.unwrap_err()), "REQUEST_ID_REUSED");
    }
    let external_id = Some("plan".to_owned());
    let other = CreateFullyProvisionedRequest { external_id, labels: labels(&[("pro", "")]), ..request };
    assert_eq!(reason(&fixture.create(other).await.unwrap_err()), "REQUEST_ID_REUSED");
}

#[tokio::test]
async fn an_update_replaces_all_labels_or_clears_them_and_leaves_them_if_it_has_none() {
    let fixture = Fixture::start().await;
    let before = fixture.create(labeled("bella", &[("plan", "free"), ("test", "true")])).await.unwrap().tenant.unwrap();
    let id = before.id.clone();
    let replaced = update(&fixture, replace(&id, &[("plan", "pro"), ("region", "eu")])).await.unwrap();
    assert_eq!(replaced.labels, labels(&[("plan", "pro"), ("region", "eu")]));
    assert!(replaced.etag != before.etag && replaced.updated_at != before.updated_at);
    assert_eq!(slugs(&fixture, with_labels(&[("test", "true")])).await, [""; 0]);
    assert_eq!(slugs(&fixture, with_labels(&[("plan", "pro")])).await, ["bella"]);
    let repeated = update(&fixture, replace(&id, &[("region", "eu"), ("plan", "pro")])).await.unwrap();
    assert_eq!(repeated, replaced, "the same labels are no change");

    let rename = UpdateTenantRequest { name: Some("Bella".to_owned()), ..replace(&id, &[]) };
    let renamed = update(&fixture, rename.clone()).await.unwrap();
    assert_eq!((renamed.name.as_str(), &renamed.labels), ("Bella", &replaced.labels));
    let outdated = UpdateTenantRequest { etag: Some(before.etag), ..clear(&id) };
    assert_eq!(reason(&update(&fixture, outdated).await.unwrap_err()), "ETAG_MISMATCH");
    let cleared = update(&fixture, clear(&id)).await.unwrap();
    assert_eq!(
        cleared,
        Tenant { labels: BTreeMap::new(), updated_at: cleared.updated_at, etag: cleared.etag.clone(), ..renamed }
    );
    assert_eq!(update(&fixture, clear(&id)).await.unwrap(), cleared);
    assert_eq!(slugs(&fixture, with_labels(&[("plan", "pro")])).await, [""; 0]);
    assert_eq!(fixture.count("tenant_labels").await, 0);

    let error = update(&fixture, replace(&id, &[])).await.unwrap_err();
    assert_eq!(violations(&error), [("name".to_owned(), "MISSING_FIELD".to_owned())]);
    let error = update(&fixture, UpdateTenantRequest { clear_labels: true, ..replace(&id, &[("plan", "pro")]) }).await;
    assert_eq!(violations(&error.unwrap_err()), [("clear_labels".to_owned(), "BAD_FORMAT".to_owned())]);
}

#[tokio::test]
async fn an_event_names_changed_labels_and_does_not_contain_them() {
    let fixture = Fixture::start().await;
    let tenant = fixture.create(labeled("bella", &[("plan", "canary-one")])).await.unwrap().tenant.unwrap();
    update(&fixture, replace(&tenant.id, &[("canary", "two")])).await.unwrap();
    update(&fixture, clear(&tenant.id)).await.unwrap();
    let fields = "events WHERE type = 'tenant.updated' AND data = '{\"fields\": [\"labels\"]}'";
    assert_eq!(fixture.count(fields).await, 2);
    assert_eq!(fixture.count("events WHERE events::text LIKE '%canary%'").await, 0);
}

#[tokio::test]
async fn all_invalid_labels_are_violations_that_name_them_in_every_request() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let long_key = "k".repeat(64);
    let invalid =
        [("", "x"), ("Plan", "x"), ("fine", "x"), ("plan", "a\nb"), ("region", &"é".repeat(256)), (&long_key, "")];
    let expected = [
        ("labels[]", "TOO_SHORT"),
        ("labels[Plan]", "BAD_FORMAT"),
        (&format!("labels[{}…]", &long_key[..63]), "TOO_LONG"),
        ("labels[plan]", "BAD_FORMAT"),
        ("labels[region]", "TOO_LONG"),
    ]
    .map(|(field, why)| (field.to_owned(), why.to_owned()));
    for mut client in [fixture.provisioning.clone()] {
        let errors = [
            client.create_fully_provisioned(labeled("omer", &invalid)).await.unwrap_err(),
            client.update_tenant(replace(&tenant.id, &invalid)).await.unwrap_err(),
            client.list_tenants(with_labels(&invalid)).await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!(violations(&error), expected);
        }
    }
    let many: Vec<String> = (0..51).map(|number| number.to_string()).collect();
    let many: Vec<_> = many.iter().map(|key| (key.as_str(), "")).collect();
    let error = fixture.create(labeled("omer", &many)).await.unwrap_err();
    assert_eq!(violations(&error), [("labels".to_owned(), "TOO_LONG".to_owned())]);
    let created = fixture.create(labeled("omer", &many[1..])).await.unwrap();
    assert_eq!(created.tenant.unwrap().labels.len(), 50);
}

/// Creates tenants in every state. Returns their slugs and numbers, oldest first. Each has the label `all`, and those
/// with an even number, or a number divisible by 3 or 40, the labels `even`, `third` and `rare`.
async fn tenants_in_every_state(fixture: &Fixture, count: u32) -> Vec<(String, u32)> {
    let mut tenants = Vec::new();
    for number in 0..count {
        let slug = format!("t{:02}", number * 7 % count);
        let mut of_tenant = vec![("all", "yes")];
        of_tenant.extend((number % 2 == 0).then_some(("even", "yes")));
        of_tenant.extend((number % 3 == 0).then_some(("third", "yes")));
        of_tenant.extend((number % 40 == 0).then_some(("rare", "yes")));
        let tenant = fixture.create(labeled(&slug, &of_tenant)).await.unwrap().tenant.unwrap();
        if number / 2 % 2 == 0 {
            fixture.suspend_tenant(&tenant.id).await.unwrap();
        }
        if number / 4 % 2 == 0 {
            fixture.delete_tenant(&tenant.id).await.unwrap();
        }
        tenants.push((slug, number));
    }
    tenants
}

#[tokio::test]
async fn a_list_has_exactly_the_tenants_with_all_labels_in_every_order_and_state() {
    let fixture = Fixture::start().await;
    let tenants = tenants_in_every_state(&fixture, 47).await;
    let has = |number: u32, key: &str| match key {
        "all" => true,
        "even" => number.is_multiple_of(2),
        "third" => number.is_multiple_of(3),
        "rare" => number.is_multiple_of(40),
        _ => false,
    };
    let selections: [&[(&str, &str)]; 7] = [
        &[("all", "yes")],
        &[("third", "yes")],
        &[("rare", "yes")],
        &[("none", "yes")],
        &[("all", "no")],
        &[("even", "yes"), ("third", "yes")],
        &[("all", "yes"), ("even", "yes"), ("third", "yes"), ("rare", "yes")],
    ];
    for selection in selections {
        for (is_active, show_deleted) in
            [(None, false), (None, true), (Some(true), false), (Some(false), false), (Some(false), true)]
        {
            let is_selected = |number: u32| {
                selection.iter().all(|&(key, value)| has(number, key) && value == "yes")
                    && is_active.is_none_or(|is_active| is_active != (number / 2).is_multiple_of(2))
                    && (show_deleted || !(number / 4).is_multiple_of(2))
            };
            let selected = tenants.iter().filter(|(_, number)| is_selected(*number));
            let mut expected: Vec<String> = selected.map(|(slug, _)| slug.clone()).collect();
            let list = ListTenantsRequest { page_size: 3, is_active, show_deleted, ..with_labels(selection) };
            assert_eq!(slugs(&fixture, list.clone()).await, expected, "{list:?}");
            expected.reverse();
            let newest_first = ListTenantsRequest { newest_first: true, ..list.clone() };
            assert_eq!(slugs(&fixture, newest_first).await, expected, "{list:?}");
            expected.sort();
            expected.retain(|slug| slug.starts_with("t1"));
            let by_slug = ListTenantsRequest { slug_prefix: "t1".to_owned(), ..list };
            assert_eq!(slugs(&fixture, by_slug.clone()).await, expected, "{by_slug:?}");
        }
    }
}

/// Inserts tenants and their label rows quickly: only the last one has the label `rare`.
async fn insert_many(fixture: &Fixture, tenants: u32) {
    let insert = format!(
        "INSERT INTO tenants (id, slug, name, commission_percent, branding, is_active, created_at, updated_at, labels)
         SELECT gen_random_uuid(), 't' || lpad(n::text, 6, '0'), 'Bella', 10, '{{}}', true,
                now() + n * interval '1 second', now(),
                '{{\"one\": \"x\", \"two\": \"x\"}}'::jsonb - CASE WHEN n % 2 = 0 THEN 'one' ELSE 'two' END
                || CASE n WHEN {tenants} THEN '{{\"one\": \"x\", \"rare\": \"x\"}}'::jsonb ELSE '{{}}' END
           FROM generate_series(1, {tenants}) AS n;
         INSERT INTO tenant_labels
         SELECT id, key, value, true, false, created_at FROM tenants, jsonb_each_text(labels) AS label (key, value)"
    );
    fixture.database.execute_without_triggers(&insert).await;
}

#[tokio::test]
async fn pages_of_combined_filters_may_be_empty_but_none_is_skipped() {
    let fixture = Fixture::start().await;
    insert_many(&fixture, 4_500).await;
    // Half of the tenants have each label, and only the last one has both.
    let both = with_labels(&[("one", "x"), ("two", "x")]);
    let by_slug = ListTenantsRequest { slug_prefix: "t0".to_owned(), ..with_labels(&[("rare", "x")]) };
    for (list, expected_pages) in [(both.clone(), 3), (by_slug, 5)] {
        let (mut request, mut pages) = (list, Vec::new());
        loop {
            let page = fixture.provisioning.clone().list_tenants(request.clone()).await.unwrap().into_inner();
            pages.push(page.tenants.len());
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        let (last, others) = pages.split_last().unwrap();
        assert_eq!((*last, others), (1, &vec![0; expected_pages - 1][..]));
    }
    let newest_first = ListTenantsRequest { newest_first: true, ..both };
    let page = fixture.provisioning.clone().list_tenants(newest_first).await.unwrap().into_inner();
    assert_eq!((page.tenants.len(), page.next_page_token.is_empty()), (1, false));
    // The label that few tenants have leads to them at once.
    let with_rare = with_labels(&[("one", "x"), ("rare", "x"), ("two", "x")]);
    let page = fixture.provisioning.clone().list_tenants(with_rare).await.unwrap().into_inner();
    assert_eq!((page.tenants.len(), page.next_page_token.as_str()), (1, ""));
}

#[tokio::test]
async fn tenants_that_are_labeled_in_psql_are_listed_and_purged_ones_leave_no_labels() {
    let fixture = Fixture::start().await;
    for slug in ["one", "two", "three"] {
        fixture.tenant(slug).await;
    }
    let label = "UPDATE tenants SET labels = '{\"plan\": \"pro\", \"x\": \"y\"}' WHERE slug <> 'two'";
    fixture.database.execute(label).await;
    assert_eq!(slugs(&fixture, with_labels(&[("plan", "pro")])).await, ["one", "three"]);
    assert_eq!(fixture.count("tenant_labels").await, 4);
    let change = "UPDATE tenants SET is_active = false WHERE slug = 'one';
                  UPDATE tenants SET created_at = '2000-01-01' WHERE slug = 'three';
                  UPDATE tenants SET labels = '{\"plan\": \"pro\"}' WHERE slug = 'two'";
    fixture.database.execute(change).await;
    assert_eq!(slugs(&fixture, with_labels(&[("plan", "pro")])).await, ["three", "one", "two"]);
    let suspended = ListTenantsRequest { is_active: Some(false), ..with_labels(&[("plan", "pro")]) };
    assert_eq!(slugs(&fixture, suspended).await, ["one"]);
    fixture.database.execute("UPDATE tenants SET deleted_at = '2000-01-01' WHERE slug <> 'two'").await;
    assert_eq!(slugs(&fixture, with_labels(&[("plan", "pro")])).await, ["two"]);

    for slug in ["one", "three"] {
        let tenant = fixture.get(Identifier::Slug(slug.to_owned())).await.unwrap();
        let purge = PurgeTenantRequest { tenant_id: tenant.id, confirm_slug: slug.to_owned() };
        fixture.provisioning.clone().purge_tenant(purge).await.unwrap();
    }
    assert_eq!(fixture.count("tenant_labels").await, 1);
    // On Citus, it is refused while there are tenants.
    if citus_bin().is_none() {
        fixture.database.execute("TRUNCATE tenants CASCADE").await;
        assert_eq!(fixture.count("tenant_labels").await, 0);
    }
}

#[tokio::test]
async fn the_database_refuses_labels_that_are_no_texts_too_many_or_too_long_from_every_client() {
    let fixture = Fixture::start().await;
    fixture.tenant("bella").await;
    let pool = fixture.superuser_pool().await;
    let many: BTreeMap<String, String> = (0..51).map(|number| (number.to_string(), String::new())).collect();
    let invalid = [
        "[]".to_owned(),
        "null".to_owned(),
        "{\"plan\": 1}".to_owned(),
        "{\"plan\": null}".to_owned(),
        "{\"plan\": \"pro\", \"x\": {}}".to_owned(),
        serde_json::to_string(&many).unwrap(),
        format!("{{\"plan\": \"{}\"}}", "x".repeat(65_536)),
    ];
    for labels in invalid {
        let update = sqlx::query("UPDATE tenants SET labels = $1::jsonb").bind(&labels);
        let error = update.execute(&pool).await.unwrap_err().into_database_error().unwrap();
        assert_eq!(error.constraint(), Some("tenants_labels_valid"), "{}", &labels[..20.min(labels.len())]);
    }
}

#[tokio::test]
async fn a_page_token_is_valid_only_for_the_same_labels() {
    let fixture = Fixture::start().await;
    for slug in ["one", "two"] {
        fixture.create(labeled(slug, &[("plan", "pro"), ("x", "y")])).await.unwrap();
    }
    let first = ListTenantsRequest { page_size: 1, ..with_labels(&[("plan", "pro")]) };
    let page = fixture.provisioning.clone().list_tenants(first.clone()).await.unwrap().into_inner();
    let second = ListTenantsRequest { page_token: page.next_page_token, ..first };
    assert_eq!(slugs(&fixture, second.clone()).await, ["two"]);
    for other in [&[][..], &[("plan", "")], &[("x", "y")], &[("plan", "pro"), ("x", "y")]] {
        let other = ListTenantsRequest { labels: labels(other), ..second.clone() };
        let error = fixture.provisioning.clone().list_tenants(other).await.unwrap_err();
        assert_eq!(violations(&error), [("page_token".to_owned(), "BAD_FORMAT".to_owned())]);
    }
}

#[tokio::test]
async fn a_caller_limited_to_tenants_lists_those_with_the_labels_alone() {
    let open = Fixture::start().await;
    let mut ids = Vec::new();
    for (slug, plan) in [("one", "pro"), ("two", "free"), ("three", "pro"), ("four", "pro")] {
        ids.push(open.create(labeled(slug, &[("plan", plan), ("x", "y")])).await.unwrap().tenant.unwrap().id);
    }
    let tokens = Tokens::new();
    let limits: Vec<&str> = ids[..3].iter().flat_map(|id| ["--tenant", id]).collect();
    let token = tokens.create_with("booking", &["reader"], &limits);
    let closed = Fixture::start_with(open.database.clone(), tokens.settings()).await;
    for selection in [&[("plan", "pro")][..], &[("plan", "pro"), ("x", "y")]] {
        let request = ListTenantsRequest { page_size: 1, newest_first: true, ..with_labels(selection) };
        let first = closed.provisioning.clone().list_tenants(with_bearer(request.clone(), Some(&token))).await;
        let first = first.map(Response::into_inner).unwrap();
        assert_eq!(first.tenants[0].slug, "three");
        let rest = ListTenantsRequest { page_token: first.next_page_token, ..request };
        let rest = closed.provisioning.clone().list_tenants(with_bearer(rest, Some(&token))).await.unwrap();
        let rest = rest.into_inner();
        assert_eq!((rest.tenants[0].slug.as_str(), rest.tenants.len(), rest.next_page_token.as_str()), ("one", 1, ""));
    }
}

/// Clients accept 4 MiB by default.
#[tokio::test]
async fn pages_of_tenants_with_as_many_labels_as_possible_stay_below_the_message_limit() {
    let fixture = Fixture::start().await;
    let label = |number| (format!("{number:063}"), "x".repeat(255));
    let of_tenant: BTreeMap<String, String> = (0..50).map(label).collect();
    for group in 0..3 {
        let requests = (0..60).map(|number| CreateFullyProvisionedRequest {
            labels: of_tenant.clone(),
            ..named(&format!("tenant-{group}-{number}"))
        });
        let batch = BatchCreateFullyProvisionedRequest { requests: requests.collect() };
        let created = fixture.provisioning.clone().batch_create_fully_provisioned(batch).await.unwrap().into_inner();
        assert!(created.results.iter().all(|result| matches!(result.result, Some(BatchResult::Provisioned(_)))));
    }
    let list = ListTenantsRequest { page_size: 500, labels: of_tenant, ..ListTenantsRequest::default() };
    let page = fixture.provisioning.clone().list_tenants(list).await.unwrap().into_inner();
    let bytes = page.encoded_len();
    assert!(!page.next_page_token.is_empty() && bytes > 1024 * 1024, "{bytes} bytes");
}

/// The texts of a response have at most 2 MiB, the other fields of 500 tenants less.
#[tokio::test]
async fn a_batch_whose_labels_would_exceed_the_message_limit_is_refused_and_one_below_it_can_be_repeated() {
    let fixture = Fixture::start().await;
    let items = |value_length: usize| {
        let item = |number| CreateFullyProvisionedRequest {
            request_id: Some(request_id(number)),
            external_id: Some(format!("{number:0255}")),
            labels: (0..10).map(|key| (format!("{key:063}"), "\"".repeat(value_length))).collect(),
            ..named(&format!("{}-{number:03}", "s".repeat(59)))
        };
        BatchCreateFullyProvisionedRequest { requests: (0..500).map(item).collect() }
    };
    let mut client = fixture.provisioning.clone();
    let error = client.batch_create_fully_provisioned(items(136)).await.map(drop).unwrap_err();
    assert_eq!(violations(&error), [("requests".to_owned(), "TOO_LONG".to_owned())]);
    assert_eq!(fixture.count("tenants").await, 0);
    for replayed in [false, true] {
        let response = client.batch_create_fully_provisioned(items(130)).await.unwrap().into_inner();
        let bytes = response.encoded_len();
        assert!(bytes < 4 * 1024 * 1024, "{bytes} bytes");
        let is_as_expected = |result: BatchCreateFullyProvisionedResult| matches!(result.result, Some(BatchResult::Provisioned(created)) if created.replayed == replayed);
        assert!(response.results.into_iter().all(is_as_expected), "replayed: {replayed}");
    }
}

#[tokio::test]
async fn labels_are_an_object_in_json() {
    let fixture = Fixture::with_settings(with_http(settings())).await;
    let mut client = TenantProvisioningClient::new(over_connect(fixture.http()));
    let created = client.create_fully_provisioned(labeled("bella", &[("plan", "pro")])).await.unwrap().into_inner();
    assert_eq!(created.tenant.unwrap().labels, labels(&[("plan", "pro")]));
    let listed = client.list_tenants(with_labels(&[("plan", "pro")])).await.unwrap().into_inner();
    assert_eq!(listed.tenants.len(), 1);
    let error = client.list_tenants(with_labels(&[("Plan", "pro")])).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert_eq!(violations(&error), [("labels[Plan]".to_owned(), "BAD_FORMAT".to_owned())]);
}
