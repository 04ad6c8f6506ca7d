//! Responses that are large before they are sent.

use tokio::task::JoinSet;
use tonic::{Code, Response};
use turnkey::grpc::pb::{
    BatchCreateFullyProvisionedRequest, ListTenantsRequest, tenant_provisioning_client::TenantProvisioningClient,
};

use super::{
    observation::POD_KIB,
    target::{Protocol, Target},
};

const TENANTS: usize = 500;
/// How much the calls may add to a debug build.
const MAX_GROWTH_KIB: u64 = 100 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn lists_of_tenants_with_large_brandings_use_bounded_memory_and_return_every_tenant() {
    let target = Target::start(Protocol::Plaintext).await;
    let client = TenantProvisioningClient::new(target.channel(&target.service));
    let requests = (0..TENANTS).map(|_| target.new_tenant()).collect();
    let batch = target.as_platform(BatchCreateFullyProvisionedRequest { requests });
    client.clone().batch_create_fully_provisioned(batch).await.unwrap();
    // Each is 64,001 bytes of text, and many times as much as a message.
    let branding = "UPDATE tenants
                       SET branding = (SELECT jsonb_build_object('', jsonb_agg(0)) FROM generate_series(1, 31900))";
    target.database.execute(branding).await;

    let before_kib = target.memory_kib("VmRSS");
    target.reset_peak();
    let mut lists = JoinSet::new();
    for _ in 0..4 {
        let request = ListTenantsRequest { page_size: 500, ..ListTenantsRequest::default() };
        let (mut client, request) = (client.clone(), target.as_platform(request));
        lists.spawn(async move { client.list_tenants(request).await.map(Response::into_inner) });
    }
    let mut listed = 0;
    while let Some(list) = lists.join_next().await {
        match list.unwrap() {
            Ok(page) => listed += page.tenants.len(),
            Err(status) => assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}"),
        }
    }
    assert!(listed > 0);
    let peak_kib = target.memory_kib("VmHWM");
    println!("{before_kib} to {peak_kib} KiB");
    assert!(peak_kib < POD_KIB.min(before_kib + MAX_GROWTH_KIB), "{before_kib} to {peak_kib} KiB");

    let (mut found, mut page_token) = (0, String::new());
    loop {
        let request = ListTenantsRequest { page_size: 500, page_token, ..ListTenantsRequest::default() };
        let page = client.clone().list_tenants(target.as_platform(request)).await.unwrap().into_inner();
        found += page.tenants.len();
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(found, TENANTS + 2, "with the two tenants of the setup");
    target.stop();
}
