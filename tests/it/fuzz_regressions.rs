//! Runs the inputs that fuzzing has found against the same properties.

use std::{fs, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};

#[path = "../../fuzz/properties.rs"]
mod properties;

fn run(target: &str, property: fn(&[u8])) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/cases").join(target).with_extension("txt");
    let cases = fs::read_to_string(path).unwrap();
    assert!(!cases.is_empty());
    for case in cases.lines() {
        property(&STANDARD.decode(case).unwrap());
    }
}

#[test]
fn arbitrary_bytes_are_parsed_as_a_request_or_rejected_with_an_error_that_clients_can_read() {
    run("requests", properties::requests);
}

#[test]
fn text_that_is_parsed_as_a_key_has_all_parts_of_a_key() {
    run("api_keys", properties::api_keys);
}

#[test]
fn a_page_token_is_valid_for_its_own_list_only() {
    run("page_tokens", properties::page_tokens);
}

#[test]
fn arbitrary_tenant_files_are_read_to_their_end() {
    run("tenants_csv", properties::tenants_csv);
}

#[test]
fn arbitrary_http_requests_get_a_response_that_is_no_internal_error() {
    run("http_requests", properties::http_requests);
}

#[test]
fn arbitrary_messages_of_agents_become_a_request_or_are_rejected() {
    run("agent_messages", properties::agent_messages);
}

#[test]
fn a_text_that_is_accepted_as_an_external_id_is_kept_as_it_is() {
    run("external_ids", properties::external_ids);
}

#[test]
fn a_map_that_is_accepted_as_labels_is_kept_as_it_is() {
    run("labels", properties::labels);
}

#[test]
fn a_text_that_is_no_etag_of_a_resource_matches_none() {
    run("etags", properties::etags);
}

#[test]
fn arbitrary_files_of_renames_are_one_to_one_or_refused_with_a_line() {
    run("renames_csv", properties::renames_csv);
}

#[test]
fn a_refused_keys_file_or_journal_keeps_every_byte_and_an_accepted_one_every_row() {
    run("row_files", properties::row_files);
}

#[test]
fn a_refused_tokens_file_is_not_shown_in_the_reason() {
    run("tokens_files", properties::tokens_files);
}

#[test]
fn an_old_tenant_comes_over_whole_or_has_problems_that_do_not_show_its_values() {
    run("old_tenants", properties::old_tenants);
}
