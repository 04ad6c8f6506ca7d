//! Cases that fuzzing found interesting, run over the same properties.

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
fn requests_of_any_bytes_are_parsed_or_refused_in_an_answer_that_clients_can_read() {
    run("requests", properties::requests);
}

#[test]
fn what_is_taken_for_a_key_has_a_keys_parts() {
    run("api_keys", properties::api_keys);
}

#[test]
fn a_page_token_stands_for_a_place_in_its_own_list_alone() {
    run("page_tokens", properties::page_tokens);
}

#[test]
fn files_of_tenants_are_read_to_their_end() {
    run("tenants_csv", properties::tenants_csv);
}
