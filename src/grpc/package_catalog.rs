//! `turnkey.v1.PackageCatalog`: convert, call, convert.

use std::sync::Arc;

use tonic::{Request, Response, Status, async_trait};

use super::{
    call_tasks::CallTasks,
    convert::catalog as convert,
    pb::{self, package_catalog_server::PackageCatalog},
};
use crate::service::CatalogService;

/// Serves the RPCs; the work is done in [`Catalog`].
#[derive(Debug)]
pub struct PackageCatalogHandler {
    service: Arc<CatalogService>,
    calls: CallTasks,
}

impl PackageCatalogHandler {
    pub fn new(service: CatalogService, calls: CallTasks) -> Self {
        Self { service: Arc::new(service), calls }
    }
}

#[async_trait]
impl PackageCatalog for PackageCatalogHandler {
    async fn upsert_package(
        &self,
        request: Request<pb::UpsertPackageRequest>,
    ) -> Result<Response<pb::UpsertPackageResponse>, Status> {
        let service = Arc::clone(&self.service);
        let work = |(tenant_id, upsert)| async move { service.upsert_package(tenant_id, upsert).await };
        self.calls.answer_about(request, convert::upsert_package, work, convert::upsert_package_response).await
    }

    async fn batch_upsert_packages(
        &self,
        request: Request<pb::BatchUpsertPackagesRequest>,
    ) -> Result<Response<pb::BatchUpsertPackagesResponse>, Status> {
        let service = Arc::clone(&self.service);
        let work = |(tenant_id, upserts)| async move { service.batch_upsert_packages(tenant_id, upserts).await };
        let (parse, render) = (convert::batch_upsert_packages, convert::batch_upsert_packages_response);
        self.calls.answer_about(request, parse, work, render).await
    }

    async fn get_package(
        &self,
        request: Request<pb::GetPackageRequest>,
    ) -> Result<Response<pb::GetPackageResponse>, Status> {
        let service = Arc::clone(&self.service);
        let work = |(tenant_id, package_id)| async move { service.get_package(tenant_id, package_id).await };
        self.calls.answer_about(request, convert::get_package, work, convert::get_package_response).await
    }

    async fn list_packages(
        &self,
        request: Request<pb::ListPackagesRequest>,
    ) -> Result<Response<pb::ListPackagesResponse>, Status> {
        let service = Arc::clone(&self.service);
        let work = |list| async move { service.list_packages(list).await };
        self.calls.answer_about(request, convert::list_packages, work, convert::list_packages_response).await
    }

    async fn delete_package(
        &self,
        request: Request<pb::DeletePackageRequest>,
    ) -> Result<Response<pb::DeletePackageResponse>, Status> {
        let service = Arc::clone(&self.service);
        let work = |(tenant_id, package_id)| async move { service.delete_package(tenant_id, package_id).await };
        self.calls.answer_about(request, convert::delete_package, work, |()| pb::DeletePackageResponse {}).await
    }

    async fn upsert_segment(
        &self,
        request: Request<pb::UpsertSegmentRequest>,
    ) -> Result<Response<pb::UpsertSegmentResponse>, Status> {
        let service = Arc::clone(&self.service);
        let work = |(tenant_id, upsert)| async move { service.upsert_segment(tenant_id, upsert).await };
        self.calls.answer_about(request, convert::upsert_segment, work, convert::upsert_segment_response).await
    }

    async fn get_segment(
        &self,
        request: Request<pb::GetSegmentRequest>,
    ) -> Result<Response<pb::GetSegmentResponse>, Status> {
        let service = Arc::clone(&self.service);
        let work = |(tenant_id, segment_id)| async move { service.get_segment(tenant_id, segment_id).await };
        self.calls.answer_about(request, convert::get_segment, work, convert::get_segment_response).await
    }

    async fn list_segments(
        &self,
        request: Request<pb::ListSegmentsRequest>,
    ) -> Result<Response<pb::ListSegmentsResponse>, Status> {
        let service = Arc::clone(&self.service);
        let work = |list| async move { service.list_segments(list).await };
        self.calls.answer_about(request, convert::list_segments, work, convert::list_segments_response).await
    }

    async fn delete_segment(
        &self,
        request: Request<pb::DeleteSegmentRequest>,
    ) -> Result<Response<pb::DeleteSegmentResponse>, Status> {
        let service = Arc::clone(&self.service);
        let work = |(tenant_id, segment_id)| async move { service.delete_segment(tenant_id, segment_id).await };
        self.calls.answer_about(request, convert::delete_segment, work, |()| pb::DeleteSegmentResponse {}).await
    }
}
