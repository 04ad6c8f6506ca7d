//! Model-based test of `PackageCatalog`: random calls for several tenants, each compared with the result of an
//! in-memory model.

mod calls;
mod model;
mod rules;

use std::{cell::RefCell, collections::HashMap, fmt::Debug, slice};

use proptest::{
    prelude::*,
    test_runner::{TestCaseResult, TestError, TestRunner},
};
use tonic::{Code, Response, Status, transport::Channel};
use turnkey::grpc::pb::{
    BatchUpsertPackagesRequest, DeletePackageRequest, DeleteSegmentRequest, GetPackageRequest, GetSegmentRequest,
    ListPackagesRequest, ListSegmentsRequest, UpsertAction, package_catalog_client::PackageCatalogClient,
};

use self::{
    calls::{Call, Step, single, steps},
    model::{CatalogEntity, List, Model, Position, Tenant, Token, UpsertResult},
    rules::{Expectation, Violations, clear_empty, id_violation},
};
use crate::support::{
    fixture::Fixture,
    requests::named,
    responses::{reason, violations},
};

/// Message and details of the first `NOT_FOUND`, by RPC and reason. All later ones must be equal byte for byte.
type NotFound = RefCell<HashMap<(&'static str, String), (String, Vec<u8>)>>;

#[test]
fn the_catalog_responds_to_random_calls_as_its_model() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let fixture = runtime.block_on(Fixture::start());
    let (numbers, not_found) = (RefCell::new(0..), NotFound::default());
    let mut runner = TestRunner::new(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() });
    let outcome = runner.run(&(2..=3_usize, steps()), |(tenants, steps)| {
        let numbers: Vec<u32> = numbers.borrow_mut().by_ref().take(tenants).collect();
        runtime.block_on(async {
            let mut world = Harness::with(&fixture, &numbers, &not_found).await;
            for step in &steps {
                world.run_step(step).await?;
            }
            world.list_everything().await
        })
    });
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(why, (tenants, steps))) => {
            let steps: Vec<String> = steps.iter().map(|step| format!("{step:?}")).collect();
            panic!("{why}\nminimal failing sequence, for {tenants} tenants:\n{}", steps.join("\n"));
        }
        Err(aborted) => panic!("{aborted}"),
    }
}

/// The service beside its model.
struct Harness<'a> {
    catalog: PackageCatalogClient<Channel>,
    model: Model,
    not_found: &'a NotFound,
}

impl<'a> Harness<'a> {
    /// Creates new tenants.
    async fn with(fixture: &Fixture, numbers: &[u32], not_found: &'a NotFound) -> Self {
        let unknown = "0192b1a0-7c3e-7def-8123-456789abcdef".to_owned();
        let mut model = Model { deleted_ids: vec![unknown], ..Model::default() };
        for number in numbers {
            let created = fixture.create(named(&format!("tenant-{number}"))).await.unwrap();
            let (id, segments) = (created.tenant.unwrap().id, created.segment.into_iter().collect());
            model.tenants.push(Tenant { id, packages: created.packages, segments });
        }
        Self { catalog: fixture.catalog.clone(), model, not_found }
    }

    async fn run_step(&mut self, step: &Step) -> TestCaseResult {
        let number = step.tenant % self.model.tenants.len();
        let tenant_id = step.tenant_id.map_or_else(|| self.model.tenants[number].id.clone(), str::to_owned);
        let tenant_id = tenant_id.as_str();
        let any_token = |token: Option<proptest::sample::Index>, tokens: &[Token]| match token {
            Some(index) if !tokens.is_empty() => index.get(tokens).text.clone(),
            Some(_) => "gold".to_owned(),
            None => String::new(),
        };
        match &step.call {
            Call::UpsertPackage(spec) => {
                let item = spec.item(&self.model, number);
                let expected = self.model.upsert_packages(tenant_id, slice::from_ref(&item), |_| String::new());
                let result = self.catalog.upsert_package(single(tenant_id, item)).await;
                if let Some((upserted, response)) = self.compare("UpsertPackage", expected, result)? {
                    self.check_upserts(tenant_id, upserted, vec![(response.action(), response.package)])?;
                }
            }
            Call::BatchUpsertPackages(specs) => {
                let packages: Vec<_> = specs.iter().map(|spec| spec.item(&self.model, number)).collect();
                let expected = self.model.upsert_packages(tenant_id, &packages, |item| format!("packages[{item}]."));
                let request = BatchUpsertPackagesRequest { tenant_id: tenant_id.to_owned(), packages };
                let result = self.catalog.batch_upsert_packages(request).await;
                if let Some((upserted, response)) = self.compare("BatchUpsertPackages", expected, result)? {
                    let results = response.results.into_iter().map(|result| (result.action(), result.package));
                    self.check_upserts(tenant_id, upserted, results.collect())?;
                }
            }
            Call::GetPackage(package) => {
                let package_id = package.id(&self.model, number, |tenant| &tenant.packages);
                self.get_package(tenant_id, package_id).await?;
            }
            Call::DeletePackage(package) => {
                let package_id = package.id(&self.model, number, |tenant| &tenant.packages);
                self.delete_package(tenant_id, package_id).await?;
            }
            Call::DeleteAllPackages => {
                for package in self.model.tenants[number].packages.clone() {
                    self.delete_package(tenant_id, package.id).await?;
                }
            }
            Call::ListPackages { segment, active, size, token } => {
                let segment_id = segment.as_ref().map(|id| id.id(&self.model, number, |tenant| &tenant.segments));
                let list = List { segment_id, active: *active, ..List::of_packages(tenant_id) };
                self.list(list, *size, any_token(*token, &self.model.tokens)).await?;
            }
            Call::UpsertSegment(spec) => {
                let request = spec.request(&self.model, number, tenant_id);
                let expected = self.model.upsert_segment(&request).map(|upserted| vec![upserted]);
                let result = self.catalog.upsert_segment(request).await;
                if let Some((upserted, response)) = self.compare("UpsertSegment", expected, result)? {
                    self.check_upserts(tenant_id, upserted, vec![(response.action(), response.segment)])?;
                }
            }
            Call::GetSegment(segment) => {
                let segment_id = segment.id(&self.model, number, |tenant| &tenant.segments);
                self.get_segment(tenant_id, segment_id).await?;
            }
            Call::DeleteSegment(segment) => {
                let segment_id = segment.id(&self.model, number, |tenant| &tenant.segments);
                self.delete_segment(tenant_id, segment_id).await?;
            }
            Call::ListSegments { size, token } => {
                let list = List::of_segments(tenant_id);
                self.list(list, *size, any_token(*token, &self.model.tokens)).await?;
            }
            Call::ContinueList { token, size } => {
                if !self.model.tokens.is_empty() {
                    let token = token.get(&self.model.tokens).clone();
                    self.list(token.list, *size, token.text).await?;
                }
            }
        }
        Ok(())
    }
}

impl Harness<'_> {
    async fn get_package(&mut self, tenant_id: &str, package_id: String) -> TestCaseResult {
        let expected = self.model.get_package(tenant_id, &package_id);
        let request = GetPackageRequest { tenant_id: tenant_id.to_owned(), package_id, ..Default::default() };
        let result = self.catalog.get_package(request).await;
        if let Some((package, response)) = self.compare("GetPackage", expected, result)? {
            prop_assert_eq!(Some(package), response.package);
        }
        Ok(())
    }

    async fn delete_package(&mut self, tenant_id: &str, package_id: String) -> TestCaseResult {
        let expected = self.model.delete_package(tenant_id, &package_id);
        let request = DeletePackageRequest { tenant_id: tenant_id.to_owned(), package_id, ..Default::default() };
        let result = self.catalog.delete_package(request).await;
        if let Some((package, _)) = self.compare("DeletePackage", expected, result)? {
            self.model.remove(&package);
        }
        Ok(())
    }

    async fn get_segment(&mut self, tenant_id: &str, segment_id: String) -> TestCaseResult {
        let expected = self.model.get_segment(tenant_id, &segment_id);
        let request = GetSegmentRequest { tenant_id: tenant_id.to_owned(), segment_id, ..Default::default() };
        let result = self.catalog.get_segment(request).await;
        if let Some((segment, response)) = self.compare("GetSegment", expected, result)? {
            prop_assert_eq!(Some(segment), response.segment);
        }
        Ok(())
    }

    async fn delete_segment(&mut self, tenant_id: &str, segment_id: String) -> TestCaseResult {
        let expected = self.model.delete_segment(tenant_id, &segment_id);
        let request = DeleteSegmentRequest { tenant_id: tenant_id.to_owned(), segment_id, ..Default::default() };
        let result = self.catalog.delete_segment(request).await;
        if let Some((segment, _)) = self.compare("DeleteSegment", expected, result)? {
            self.model.remove(&segment);
        }
        Ok(())
    }

    /// Reads page after page, until the end or an error.
    async fn list(&mut self, mut list: List, page_size: i32, mut page_token: String) -> TestCaseResult {
        let sent_segment_id = list.segment_id.clone();
        clear_empty(&mut [&mut list.segment_id]);
        loop {
            let tenant_id = list.tenant_id.clone();
            let next = if list.of_packages {
                let expected = self.model.list_packages(&list, page_size, &page_token);
                let (segment_id, active) = (sent_segment_id.clone(), list.active);
                let request = ListPackagesRequest { tenant_id, page_size, page_token, segment_id, active };
                let result = self.catalog.list_packages(request).await;
                let Some((page, response)) = self.compare("ListPackages", expected, result)? else { break };
                check_page(page, &response.packages, response.next_page_token)?
            } else {
                let expected = self.model.list_segments(&list, page_size, &page_token);
                let request = ListSegmentsRequest { tenant_id, page_size, page_token, ..Default::default() };
                let result = self.catalog.list_segments(request).await;
                let Some((page, response)) = self.compare("ListSegments", expected, result)? else { break };
                check_page(page, &response.segments, response.next_page_token)?
            };
            let Some((text, after)) = next else { break };
            self.model.tokens.push(Token { text: text.clone(), list: list.clone(), after });
            page_token = text;
        }
        Ok(())
    }

    async fn list_everything(&mut self) -> TestCaseResult {
        let ids: Vec<String> = self.model.tenants.iter().map(|tenant| tenant.id.clone()).collect();
        for tenant_id in &ids {
            self.list(List::of_packages(tenant_id), 0, String::new()).await?;
            self.list(List::of_segments(tenant_id), 0, String::new()).await?;
        }
        Ok(())
    }

    /// Returns the expected and the actual result, or `None` if the call was rejected as expected.
    fn compare<E: Debug, A: Debug>(
        &self,
        rpc: &'static str,
        expected: Expectation<E>,
        result: Result<Response<A>, Status>,
    ) -> Result<Option<(E, A)>, TestCaseError> {
        match (expected, result) {
            (Ok(expected), Ok(result)) => Ok(Some((expected, result.into_inner()))),
            (Err(rejections), Err(status)) => {
                let (code, reason) = (status.code(), reason(&status));
                let actual = if code == Code::InvalidArgument { violations(&status) } else { Vec::new() };
                let distinct: Violations = actual.iter().cloned().collect();
                prop_assert_eq!(distinct.len(), actual.len(), "{}: duplicate violations: {:?}", rpc, actual);
                let is_right = rejections.iter().any(|rejection| rejection.matches(code, &reason, &distinct));
                prop_assert!(is_right, "{rpc}: {code:?} {reason} {actual:?}, expected one of {rejections:#?}");
                // The message of a batch contains the item.
                if code == Code::NotFound && rpc != "BatchUpsertPackages" {
                    let seen = (status.message().to_owned(), status.details().to_vec());
                    let mut not_found = self.not_found.borrow_mut();
                    prop_assert_eq!(&seen, not_found.entry((rpc, reason)).or_insert_with(|| seen.clone()));
                }
                Ok(None)
            }
            (Ok(expected), Err(status)) => {
                Err(TestCaseError::fail(format!("{rpc}: rejected with {status:?}, expected {expected:#?}")))
            }
            (Err(rejections), Ok(result)) => {
                Err(TestCaseError::fail(format!("{rpc}: succeeded with {result:#?}, expected one of {rejections:#?}")))
            }
        }
    }

    /// Compares the results of an upsert with the expected ones, and updates the model.
    fn check_upserts<T: CatalogEntity>(
        &mut self,
        tenant_id: &str,
        expected: Vec<UpsertResult<T>>,
        results: Vec<(UpsertAction, Option<T>)>,
    ) -> TestCaseResult {
        prop_assert_eq!(expected.len(), results.len());
        for (UpsertResult { before, after }, (action, response)) in expected.into_iter().zip(results) {
            let response = response.ok_or_else(|| TestCaseError::fail("an upsert returns what it wrote"))?;
            prop_assert_eq!(&after.clone().with_generated_fields_of(&response), &response);
            let (created_at, updated_at) = response.times();
            if let Some(before) = before {
                prop_assert_eq!(action, UpsertAction::Updated);
                prop_assert_eq!((before.id(), before.times().0), (response.id(), created_at));
                let changes = [before != after, before.times().1 != updated_at, before.etag() != response.etag()];
                prop_assert!(
                    changes == [true; 3] || changes == [false; 3],
                    "updated_at and etag change exactly with the entity: {:?}",
                    response
                );
            } else {
                prop_assert_eq!(action, UpsertAction::Created);
                prop_assert!(id_violation(response.id()).is_none() && created_at.is_some() && created_at == updated_at);
            }
            self.model.put(tenant_id, &response);
        }
        Ok(())
    }
}

/// Compares a page with the expected one. Returns the token of the next page and the position that it encodes.
fn check_page<T: CatalogEntity>(
    (expected, has_more): (Vec<T>, bool),
    result: &[T],
    token: String,
) -> Result<Option<(String, Position)>, TestCaseError> {
    prop_assert_eq!(&expected, result);
    prop_assert_eq!(has_more, !token.is_empty());
    Ok(expected.last().filter(|_| has_more).map(|last| (token, last.position())))
}
