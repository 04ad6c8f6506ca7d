//! Handlers of `turnkey.v1.PackageCatalog`. Each converts, calls its method of [`CatalogService`] and converts back.

use tonic::{Request, async_trait};

use super::{
    handler::{Handler, RpcResult},
    pb::{self, package_catalog_server::PackageCatalog},
};
use crate::service::CatalogService;

#[async_trait]
impl PackageCatalog for Handler<CatalogService> {
    async fn upsert_package(&self, request: Request<pb::UpsertPackageRequest>) -> RpcResult<pb::UpsertPackageResponse> {
        self.unary_by_actor(request, |service, actor, (tenant_id, request)| async move {
            service.upsert_package(tenant_id, request, actor).await
        })
        .await
    }

    async fn batch_upsert_packages(
        &self,
        request: Request<pb::BatchUpsertPackagesRequest>,
    ) -> RpcResult<pb::BatchUpsertPackagesResponse> {
        self.unary_by_actor(request, |service, actor, (tenant_id, upserts)| async move {
            service.batch_upsert_packages(tenant_id, upserts, actor).await
        })
        .await
    }

    async fn get_package(&self, request: Request<pb::GetPackageRequest>) -> RpcResult<pb::GetPackageResponse> {
        self.unary(request, |service, (tenant_id, identifier)| async move {
            service.get_package(tenant_id, identifier).await
        })
        .await
    }

    async fn list_packages(&self, request: Request<pb::ListPackagesRequest>) -> RpcResult<pb::ListPackagesResponse> {
        self.unary(request, |service, (id, list)| async move { service.list_packages(id, list).await }).await
    }

    async fn delete_package(&self, request: Request<pb::DeletePackageRequest>) -> RpcResult<pb::DeletePackageResponse> {
        self.unary_by_actor(request, |service, actor, (tenant_id, deletion)| async move {
            service.delete_package(tenant_id, deletion, actor).await
        })
        .await
    }

    async fn upsert_segment(&self, request: Request<pb::UpsertSegmentRequest>) -> RpcResult<pb::UpsertSegmentResponse> {
        self.unary_by_actor(request, |service, actor, (tenant_id, upsert)| async move {
            service.upsert_segment(tenant_id, upsert, actor).await
        })
        .await
    }

    async fn get_segment(&self, request: Request<pb::GetSegmentRequest>) -> RpcResult<pb::GetSegmentResponse> {
        self.unary(request, |service, (tenant_id, identifier)| async move {
            service.get_segment(tenant_id, identifier).await
        })
        .await
    }

    async fn list_segments(&self, request: Request<pb::ListSegmentsRequest>) -> RpcResult<pb::ListSegmentsResponse> {
        self.unary(request, |service, (id, list)| async move { service.list_segments(id, list).await }).await
    }

    async fn delete_segment(&self, request: Request<pb::DeleteSegmentRequest>) -> RpcResult<pb::DeleteSegmentResponse> {
        self.unary_by_actor(request, |service, actor, (tenant_id, deletion)| async move {
            service.delete_segment(tenant_id, deletion, actor).await
        })
        .await
    }
}
