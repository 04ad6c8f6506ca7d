//! `PackageCatalog` beside a model of it: calls at random for several tenants, each answered as the contract says.

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
    model::{CatalogEntity, List, Model, Place, Tenant, Token, UpsertResult},
    rules::{Answer, Violations, bad_id},
};
use crate::fixture::{Fixture, named, reason, violations};

/// What a `NOT_FOUND` looked like the first time, by RPC and reason: byte for byte so it must look ever after.
type NotFound = RefCell<HashMap<(&'static str, String), (String, Vec<u8>)>>;

#[test]
fn whatever_is_called_in_whatever_order_every_answer_is_that_of_the_contract() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let fixture = runtime.block_on(Fixture::start());
    let (numbers, not_found) = (RefCell::new(0..), NotFound::default());
    let mut runner = TestRunner::new(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() });
    let outcome = runner.run(&(2..=3_usize, steps()), |(tenants, steps)| {
        let numbers: Vec<u32> = numbers.borrow_mut().by_ref().take(tenants).collect();
        runtime.block_on(async {
            let mut world = World::with(&fixture, &numbers, &not_found).await;
            for step in &steps {
                world.play(step).await?;
            }
            world.look_at_everything().await
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

/// The service and its model.
struct World<'a> {
    catalog: PackageCatalogClient<Channel>,
    model: Model,
    not_found: &'a NotFound,
}

impl<'a> World<'a> {
    /// With new tenants.
    async fn with(fixture: &Fixture, numbers: &[u32], not_found: &'a NotFound) -> Self {
        let never_was = "0192b1a0-7c3e-7def-8123-456789abcdef".to_owned();
        let mut model = Model { gone: vec![never_was], ..Model::default() };
        for number in numbers {
            let made = fixture.create(named(&format!("tenant-{number}"))).await.unwrap();
            let (id, segments) = (made.tenant.unwrap().id, made.segment.into_iter().collect());
            model.tenants.push(Tenant { id, packages: made.packages, segments });
        }
        Self { catalog: fixture.catalog.clone(), model, not_found }
    }

    async fn play(&mut self, step: &Step) -> TestCaseResult {
        let number = step.tenant % self.model.tenants.len();
        let tenant_id = step.tenant_id.map_or_else(|| self.model.tenants[number].id.clone(), str::to_owned);
        let tenant_id = tenant_id.as_str();
        let any_token = |token: Option<proptest::sample::Index>, tokens: &[Token]| match token {
            Some(index) if !tokens.is_empty() => index.get(tokens).text.clone(),
            Some(_) => "gold".to_owned(),
            None => String::new(),
        };
        match &step.call {
            Call::UpsertPackage(wish) => {
                let item = wish.item(&self.model, number);
                let expected = self.model.upsert_packages(tenant_id, slice::from_ref(&item), |_| String::new());
                let answered = self.catalog.upsert_package(single(tenant_id, item)).await;
                if let Some((upserted, answer)) = self.judge("UpsertPackage", expected, answered)? {
                    self.check_upserts(tenant_id, upserted, vec![(answer.action(), answer.package)])?;
                }
            }
            Call::BatchUpsertPackages(wishes) => {
                let packages: Vec<_> = wishes.iter().map(|wish| wish.item(&self.model, number)).collect();
                let expected = self.model.upsert_packages(tenant_id, &packages, |item| format!("packages[{item}]."));
                let request = BatchUpsertPackagesRequest { tenant_id: tenant_id.to_owned(), packages };
                let answered = self.catalog.batch_upsert_packages(request).await;
                if let Some((upserted, answer)) = self.judge("BatchUpsertPackages", expected, answered)? {
                    let results = answer.results.into_iter().map(|result| (result.action(), result.package));
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
            Call::UpsertSegment(wish) => {
                let request = wish.request(&self.model, number, tenant_id);
                let expected = self.model.upsert_segment(&request).map(|upserted| vec![upserted]);
                let answered = self.catalog.upsert_segment(request).await;
                if let Some((upserted, answer)) = self.judge("UpsertSegment", expected, answered)? {
                    self.check_upserts(tenant_id, upserted, vec![(answer.action(), answer.segment)])?;
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
            Call::GoOn { token, size } => {
                if !self.model.tokens.is_empty() {
                    let token = token.get(&self.model.tokens).clone();
                    self.list(token.list, *size, token.text).await?;
                }
            }
        }
        Ok(())
    }
}

impl World<'_> {
    async fn get_package(&mut self, tenant_id: &str, package_id: String) -> TestCaseResult {
        let expected = self.model.get_package(tenant_id, &package_id);
        let request = GetPackageRequest { tenant_id: tenant_id.to_owned(), package_id };
        let answered = self.catalog.get_package(request).await;
        if let Some((package, answer)) = self.judge("GetPackage", expected, answered)? {
            prop_assert_eq!(Some(package), answer.package);
        }
        Ok(())
    }

    async fn delete_package(&mut self, tenant_id: &str, package_id: String) -> TestCaseResult {
        let expected = self.model.delete_package(tenant_id, &package_id);
        let request = DeletePackageRequest { tenant_id: tenant_id.to_owned(), package_id };
        let answered = self.catalog.delete_package(request).await;
        if let Some((package, _)) = self.judge("DeletePackage", expected, answered)? {
            self.model.remove(&package);
        }
        Ok(())
    }

    async fn get_segment(&mut self, tenant_id: &str, segment_id: String) -> TestCaseResult {
        let expected = self.model.get_segment(tenant_id, &segment_id);
        let request = GetSegmentRequest { tenant_id: tenant_id.to_owned(), segment_id };
        let answered = self.catalog.get_segment(request).await;
        if let Some((segment, answer)) = self.judge("GetSegment", expected, answered)? {
            prop_assert_eq!(Some(segment), answer.segment);
        }
        Ok(())
    }

    async fn delete_segment(&mut self, tenant_id: &str, segment_id: String) -> TestCaseResult {
        let expected = self.model.delete_segment(tenant_id, &segment_id);
        let request = DeleteSegmentRequest { tenant_id: tenant_id.to_owned(), segment_id };
        let answered = self.catalog.delete_segment(request).await;
        if let Some((segment, _)) = self.judge("DeleteSegment", expected, answered)? {
            self.model.remove(&segment);
        }
        Ok(())
    }

    /// Page after page, until the end or a refusal.
    async fn list(&mut self, list: List, page_size: i32, mut page_token: String) -> TestCaseResult {
        loop {
            let tenant_id = list.tenant_id.clone();
            let next = if list.of_packages {
                let expected = self.model.list_packages(&list, page_size, &page_token);
                let (segment_id, active) = (list.segment_id.clone(), list.active);
                let request = ListPackagesRequest { tenant_id, page_size, page_token, segment_id, active };
                let answered = self.catalog.list_packages(request).await;
                let Some((page, answer)) = self.judge("ListPackages", expected, answered)? else { break };
                check_page(page, &answer.packages, answer.next_page_token)?
            } else {
                let expected = self.model.list_segments(&list, page_size, &page_token);
                let request = ListSegmentsRequest { tenant_id, page_size, page_token };
                let answered = self.catalog.list_segments(request).await;
                let Some((page, answer)) = self.judge("ListSegments", expected, answered)? else { break };
                check_page(page, &answer.segments, answer.next_page_token)?
            };
            let Some((text, after)) = next else { break };
            self.model.tokens.push(Token { text: text.clone(), list: list.clone(), after });
            page_token = text;
        }
        Ok(())
    }

    async fn look_at_everything(&mut self) -> TestCaseResult {
        let ids: Vec<String> = self.model.tenants.iter().map(|tenant| tenant.id.clone()).collect();
        for tenant_id in &ids {
            self.list(List::of_packages(tenant_id), 0, String::new()).await?;
            self.list(List::of_segments(tenant_id), 0, String::new()).await?;
        }
        Ok(())
    }

    /// What was expected and what came; none where it was refused, and rightly so.
    fn judge<E: Debug, A: Debug>(
        &self,
        rpc: &'static str,
        expected: Answer<E>,
        answered: Result<Response<A>, Status>,
    ) -> Result<Option<(E, A)>, TestCaseError> {
        match (expected, answered) {
            (Ok(expected), Ok(answered)) => Ok(Some((expected, answered.into_inner()))),
            (Err(refusals), Err(status)) => {
                let (code, reason) = (status.code(), reason(&status));
                let told = if code == Code::InvalidArgument { violations(&status) } else { Vec::new() };
                let told_once: Violations = told.iter().cloned().collect();
                prop_assert_eq!(told_once.len(), told.len(), "{}: a field is told twice: {:?}", rpc, told);
                let is_right = refusals.iter().any(|refusal| refusal.is(code, &reason, &told_once));
                prop_assert!(is_right, "{rpc}: {code:?} {reason} {told:?}, expected one of {refusals:#?}");
                // Those of a batch name the item.
                if code == Code::NotFound && rpc != "BatchUpsertPackages" {
                    let seen = (status.message().to_owned(), status.details().to_vec());
                    let mut not_found = self.not_found.borrow_mut();
                    prop_assert_eq!(&seen, not_found.entry((rpc, reason)).or_insert_with(|| seen.clone()));
                }
                Ok(None)
            }
            (Ok(expected), Err(status)) => {
                Err(TestCaseError::fail(format!("{rpc}: refused with {status:?}, expected {expected:#?}")))
            }
            (Err(refusals), Ok(answered)) => {
                Err(TestCaseError::fail(format!("{rpc}: done, {answered:#?}, expected one of {refusals:#?}")))
            }
        }
    }

    /// Holds what was upserted against what was expected, and keeps it.
    fn check_upserts<T: CatalogEntity>(
        &mut self,
        tenant_id: &str,
        expected: Vec<UpsertResult<T>>,
        answered: Vec<(UpsertAction, Option<T>)>,
    ) -> TestCaseResult {
        prop_assert_eq!(expected.len(), answered.len());
        for (UpsertResult { was, is }, (action, answer)) in expected.into_iter().zip(answered) {
            let answer = answer.ok_or_else(|| TestCaseError::fail("an upsert answers what it made"))?;
            prop_assert_eq!(&is.clone().stamped(&answer), &answer);
            let (created_at, updated_at) = answer.times();
            if let Some(was) = was {
                prop_assert_eq!(action, UpsertAction::Updated);
                prop_assert_eq!((was.id(), was.times().0), (answer.id(), created_at));
                prop_assert_eq!(was != is, was.times().1 != updated_at, "updated_at moves with a change: {:?}", answer);
            } else {
                prop_assert_eq!(action, UpsertAction::Created);
                prop_assert!(bad_id(answer.id()).is_none() && created_at.is_some() && created_at == updated_at);
            }
            self.model.put(tenant_id, &answer);
        }
        Ok(())
    }
}

/// Holds a page against the expected one, and answers the token of the next with the place that it stands for.
fn check_page<T: CatalogEntity>(
    (expected, has_more): (Vec<T>, bool),
    answered: &[T],
    token: String,
) -> Result<Option<(String, Place)>, TestCaseError> {
    prop_assert_eq!(&expected, answered);
    prop_assert_eq!(has_more, !token.is_empty());
    Ok(expected.last().filter(|_| has_more).map(|last| (token, last.place())))
}
