//! The RPCs by their names.

use std::io::Write as _;

use prost_reflect::{DescriptorPool, MethodDescriptor, ServiceDescriptor};

use super::{
    super::{Error, output::Stdout},
    fields::nearest,
};
use crate::grpc::pb;

/// An RPC of the API.
pub struct Entry {
    /// As in `turnkey.v1.PackageCatalog`.
    service: String,
    name: String,
    /// As in `/turnkey.v1.PackageCatalog/GetPackage`.
    pub path: String,
    /// The first clause of its comment.
    summary: String,
}

/// Finds an RPC by its name, alone or after that of its service: `GetTenant`, `TenantProvisioning/GetTenant`.
pub fn find(name: &str) -> Result<Entry, Error> {
    let mut entries = entries();
    let name = name.trim_start_matches('/');
    let is_named = |entry: &Entry| {
        let full_name = &entry.path[1..];
        let without_package = full_name.rsplit_once("v1.").map(|(_, name)| name);
        name == entry.name || name == full_name || Some(name) == without_package
    };
    if let Some(position) = entries.iter().position(is_named) {
        return Ok(entries.swap_remove(position));
    }
    let hint = nearest(name, entries.iter().map(|entry| entry.name.as_str()));
    let hint = hint.map_or_else(|| "`turnkey call` lists the RPCs".to_owned(), |near| format!("did you mean {near}?"));
    Err(format!("no RPC is named {name}; {hint}").into())
}

pub fn names() -> Vec<String> {
    entries().into_iter().map(|entry| entry.name).collect()
}

/// Prints the RPCs of each service.
pub fn print_list() -> Result<(), Error> {
    let entries = entries();
    let width = entries.iter().map(|entry| entry.name.len()).max().unwrap_or_default();
    let mut service = "";
    for entry in &entries {
        if entry.service != service {
            let gap = if service.is_empty() { "" } else { "\n" };
            service = &entry.service;
            writeln!(Stdout, "{gap}{service}")?;
        }
        writeln!(Stdout, "  {:width$}  {}", entry.name, entry.summary)?;
    }
    Ok(())
}

fn entries() -> Vec<Entry> {
    // A test checks that the descriptors decode.
    let pool = DescriptorPool::decode(pb::DESCRIPTORS).unwrap_or_default();
    let services: Vec<_> = pool.services().collect();
    services.iter().flat_map(ServiceDescriptor::methods).map(|method| entry(&method)).collect()
}

fn entry(method: &MethodDescriptor) -> Entry {
    let (service, name) = (method.parent_service().full_name().to_owned(), method.name().to_owned());
    Entry { path: format!("/{service}/{name}"), service, name, summary: summary(method) }
}

fn summary(method: &MethodDescriptor) -> String {
    let file = method.parent_file();
    let locations = file.file_descriptor_proto().source_code_info.iter().flat_map(|info| &info.location);
    let location = locations.into_iter().find(|location| location.path == method.path());
    let text = location.map_or("", |location| location.leading_comments());
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    // The rest of a long sentence is detail.
    let end = [". ", "; ", ": "].iter().filter_map(|end| text.find(end)).min().unwrap_or(text.len());
    text[..end].trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rpc_is_found_by_its_name_and_has_a_summary() {
        assert!(!entries().is_empty());
        for Entry { name, summary, path, .. } in entries() {
            assert!(!summary.is_empty(), "{name}");
            for text in [name.as_str(), path.as_str(), &path[1..], path.rsplit_once("v1.").unwrap().1] {
                assert_eq!(find(text).unwrap_or_else(|error| panic!("{error}")).path, path);
            }
        }
    }

    #[test]
    fn an_unknown_rpc_is_an_error_that_suggests_the_nearest() {
        let error = |name| find(name).err().unwrap().to_string();
        assert_eq!(error("GetTennant"), "no RPC is named GetTennant; did you mean GetTenant?");
        assert_eq!(error("x"), "no RPC is named x; `turnkey call` lists the RPCs");
    }
}
