//! Sends the calls about packages and segments.

use tonic::Status;
use turnkey::grpc::pb::{
    BatchUpsertPackagesRequest, BatchUpsertPackagesResult, DeletePackageRequest, DeleteSegmentRequest,
    ListPackagesRequest, ListSegmentsRequest, PackageUpsert, UpsertAction, UpsertPackageRequest, UpsertSegmentRequest,
    package_catalog_client::PackageCatalogClient,
};

use super::{
    Client,
    views::{package_view, segment_view},
};
use crate::{
    histories::history::{Call, Outcome, Response},
    support::connect::Transport,
};

impl Client {
    pub(super) async fn send_to_catalog(&self, call: &Call, transport: Transport) -> Result<Outcome, Status> {
        let mut client = PackageCatalogClient::new(transport);
        let tenant_id = self.known.tenant_id.clone();
        Ok(Outcome::Ok(match call.clone() {
            Call::UpsertPackages { items, etag } if items.len() == 1 => {
                let (slug, price) = items[0].clone();
                let (slug, name, base_price) = (Some(slug), Some("Package".to_owned()), Some(price));
                let request = UpsertPackageRequest { tenant_id, slug, name, base_price, etag, ..Default::default() };
                let response = client.upsert_package(request).await?.into_inner();
                let is_created = response.action() == UpsertAction::Created;
                Response::Upserted(vec![(is_created, package_view(response.package.unwrap()))])
            }
            Call::UpsertPackages { items, .. } => {
                let package = |(slug, price)| PackageUpsert {
                    slug: Some(slug),
                    name: Some("Package".to_owned()),
                    base_price: Some(price),
                    ..Default::default()
                };
                let request =
                    BatchUpsertPackagesRequest { tenant_id, packages: items.into_iter().map(package).collect() };
                let results = client.batch_upsert_packages(request).await?.into_inner().results;
                let view = |result: BatchUpsertPackagesResult| {
                    (result.action() == UpsertAction::Created, package_view(result.package.unwrap()))
                };
                Response::Upserted(results.into_iter().map(view).collect())
            }
            Call::DeletePackage { id: package_id, etag } => {
                let request = DeletePackageRequest { tenant_id, package_id, etag, ..Default::default() };
                client.delete_package(request).await.map(|_empty| Response::Empty)?
            }
            Call::UpsertSegment { slug, name, etag } => {
                let (slug, name) = (Some(slug), Some(name));
                let request = UpsertSegmentRequest { tenant_id, slug, name, etag, ..Default::default() };
                let response = client.upsert_segment(request).await?.into_inner();
                let is_created = response.action() == UpsertAction::Created;
                Response::Upserted(vec![(is_created, segment_view(response.segment.unwrap()))])
            }
            Call::DeleteSegment { id: segment_id, etag } => {
                let request = DeleteSegmentRequest { tenant_id, segment_id, etag, ..Default::default() };
                client.delete_segment(request).await.map(|_empty| Response::Empty)?
            }
            Call::ListSegments => {
                let request = ListSegmentsRequest { tenant_id, page_size: 500, ..Default::default() };
                let segments = client.list_segments(request).await?.into_inner().segments;
                Response::Items(segments.into_iter().map(segment_view).collect())
            }
            _ => {
                let request = ListPackagesRequest { tenant_id, page_size: 500, ..Default::default() };
                let packages = client.list_packages(request).await?.into_inner().packages;
                Response::Items(packages.into_iter().map(package_view).collect())
            }
        }))
    }
}
