//! What holds for any bytes at all. Fuzzing looks for bytes for which it does not; the test suite runs it over the cases
//! that fuzzing found interesting.

use std::{collections::HashSet, fmt::Debug};

use prost::Message;
use secrecy::SecretString;
use turnkey::{
    cli::import::rows,
    domain::{
        ParsedSecretKey, PublicKey,
        paging::{Cursor, PageTokenScope},
    },
    error::Result,
    grpc::{
        convert::{api_keys, batches, catalog, integrity, passwords, provisioning, tenants},
        layers::call_context::TraceId,
        status,
    },
};

/// Clients refuse trailers above this, and details travel in one, as base64.
const MAX_TRAILER_BYTES: usize = 8 * 1024;

/// The first byte chooses an RPC, the others are its message: it is decoded and parsed, or refused in an answer that any
/// client can read.
pub fn requests(data: &[u8]) {
    let Some((rpc, message)) = data.split_first() else { return };
    match rpc % 26 {
        0 => parse(message, provisioning::create_fully_provisioned),
        1 => parse(message, provisioning::create_from_signup),
        2 => parse(message, batches::batch_create_fully_provisioned),
        3 => parse(message, tenants::get_tenant),
        4 => parse(message, tenants::list_tenants),
        5 => parse(message, tenants::update_tenant),
        6 => parse(message, tenants::suspend_tenant),
        7 => parse(message, tenants::reactivate_tenant),
        8 => parse(message, tenants::delete_tenant),
        9 => parse(message, tenants::undelete_tenant),
        10 => parse(message, api_keys::rotate_api_key),
        11 => parse(message, api_keys::list_api_keys),
        12 => parse(message, api_keys::revoke_api_key),
        13 => parse(message, api_keys::verify_api_key),
        14 => parse(message, passwords::verify_password),
        15 => parse(message, integrity::check_integrity),
        16 => parse(message, integrity::repair_tenant),
        17 => parse(message, catalog::upsert_package),
        18 => parse(message, catalog::batch_upsert_packages),
        19 => parse(message, catalog::get_package),
        20 => parse(message, catalog::list_packages),
        21 => parse(message, catalog::delete_package),
        22 => parse(message, catalog::upsert_segment),
        23 => parse(message, catalog::get_segment),
        24 => parse(message, catalog::list_segments),
        _ => parse(message, catalog::delete_segment),
    }
}

fn parse<M: Message + Default + Debug, Input>(bytes: &[u8], parse: fn(M) -> Result<Input>) {
    let Ok(message) = M::decode(bytes) else { return };
    let _shown = format!("{message:?}");
    if let Err(error) = parse(message) {
        let refusal = status::from_error(error, TraceId::default());
        assert_ne!(refusal.code(), tonic::Code::Internal, "{refusal:?}");
        assert!(refusal.details().len().div_ceil(3) * 4 <= MAX_TRAILER_BYTES, "{}", refusal.details().len());
    }
}

/// What is taken for a key has a key's parts, and nothing else is.
pub fn api_keys(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(public) = PublicKey::parse(text) {
        assert_eq!(public.as_str(), text);
        assert!(text.starts_with("pk_") && text.ends_with(public.key_id()));
    }
    if let Some(key) = ParsedSecretKey::parse(&SecretString::from(text)) {
        let public = text.replacen("sk_", "pk_", 1);
        let (public, _random) = public.rsplit_once('_').expect("a key has parts");
        assert_eq!(PublicKey::parse(public).expect("both halves are of one form").key_id(), key.key_id);
    }
}

/// Up to the first line feed a list, then a token: it stands for a place in that list, or for nothing. Two texts never
/// stand for one place.
pub fn page_tokens(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (list, token) = text.split_once('\n').unwrap_or(("", text));
    let page_token_scope = PageTokenScope::new(list);
    if let Ok(Some(position)) = page_token_scope.decode(token) {
        assert_eq!(page_token_scope.encode(position), token);
        assert!(PageTokenScope::new(format!("{list}.")).decode(token).is_err(), "a token of one list is of no other");
    }
    if let Some(bytes) = data.first_chunk::<24>() {
        let (order, id) = bytes.split_at(8);
        let order = i64::from_be_bytes(order.try_into().expect("8 bytes"));
        let position = Cursor { order, id: uuid_of(id) };
        assert_eq!(
            page_token_scope.decode(&page_token_scope.encode(position)).expect("it is of this list"),
            Some(position)
        );
    }
}

fn uuid_of(bytes: &[u8]) -> uuid::Uuid {
    uuid::Uuid::from_slice(bytes).expect("16 bytes")
}

/// A file of tenants is read to its end: every row is good, or is complained of with its line.
pub fn tenants_csv(data: &[u8]) {
    let Ok(rows) = rows::read_from(data) else { return };
    let slugs: HashSet<&str> = rows.valid.iter().map(|row| row.slug.as_str()).collect();
    assert_eq!(slugs.len(), rows.valid.len(), "a slug is imported once");
    assert!(rows.errors.iter().all(|complaint| complaint.contains("line")), "{:?}", rows.errors);
}
