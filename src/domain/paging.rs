//! Keyset pagination: a page continues after the last row of the page before, so that rows inserted or deleted between
//! two calls neither repeat nor hide other rows. Each list has its own order and filters.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::validation::{InvalidValue, Reason};

const DEFAULT_SIZE: u16 = 50;
const MAX_SIZE: u16 = 500;

/// Maximum number of rows of a page: 1 … 500.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageSize(u16);

impl PageSize {
    /// Converts a requested size: 0 means 50, more than 500 means 500.
    ///
    /// # Errors
    /// `OUT_OF_RANGE` for a negative number.
    pub fn parse(size: i32) -> Result<Self, InvalidValue> {
        match u32::try_from(size) {
            Ok(0) => Ok(Self(DEFAULT_SIZE)),
            Ok(size) => Ok(Self(u16::try_from(size).unwrap_or(MAX_SIZE).min(MAX_SIZE))),
            Err(_) => Err(InvalidValue::new(Reason::OutOfRange, "must not be negative")),
        }
    }

    pub const fn get(self) -> usize {
        self.0 as usize
    }
}

/// The position of a row in a list that is ordered by a number and then by id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    pub order: i64,
    pub id: Uuid,
}

/// The list, tenant and filters that a page token is valid for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageTokenScope(String);

const CHECKSUM_BYTES: usize = 8;
const ORDER_BYTES: usize = 8;
const TOKEN_BYTES: usize = ORDER_BYTES + 16 + CHECKSUM_BYTES;

impl PageTokenScope {
    /// Creates the scope that `text` identifies: different texts are different scopes.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Encodes a cursor as a page token. The token is opaque but not secret, because it names a position in a list that
    /// the caller may read. Its checksum detects damaged tokens and tokens of another scope.
    pub fn encode(&self, cursor: Cursor) -> String {
        let mut bytes = Vec::with_capacity(TOKEN_BYTES);
        bytes.extend(cursor.order.to_be_bytes());
        bytes.extend(cursor.id.into_bytes());
        bytes.extend(self.checksum(&bytes));
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Decodes a page token. The empty token means the start of the list and gives `None`.
    ///
    /// # Errors
    /// `BAD_FORMAT` if [`PageTokenScope::encode`] did not create the token for this scope.
    pub fn decode(&self, token: &str) -> Result<Option<Cursor>, InvalidValue> {
        if token.is_empty() {
            return Ok(None);
        }
        self.decode_cursor(token).map(Some).ok_or_else(Self::invalid_page_token)
    }

    pub fn invalid_page_token() -> InvalidValue {
        let message = "is not a valid page token for this list: use next_page_token with unchanged filters";
        InvalidValue::new(Reason::BadFormat, message)
    }

    fn decode_cursor(&self, token: &str) -> Option<Cursor> {
        let bytes: [u8; TOKEN_BYTES] = URL_SAFE_NO_PAD.decode(token).ok()?.try_into().ok()?;
        let (cursor, checksum) = bytes.split_at(TOKEN_BYTES - CHECKSUM_BYTES);
        if checksum != self.checksum(cursor) {
            return None;
        }
        let (order, id) = cursor.split_at(ORDER_BYTES);
        Some(Cursor { order: i64::from_be_bytes(order.try_into().ok()?), id: Uuid::from_slice(id).ok()? })
    }

    fn checksum(&self, cursor: &[u8]) -> [u8; CHECKSUM_BYTES] {
        let digest = Sha256::new().chain_update(cursor).chain_update(self.0.as_bytes()).finalize();
        let mut checksum = [0; CHECKSUM_BYTES];
        checksum.copy_from_slice(&digest[..CHECKSUM_BYTES]);
        checksum
    }
}

/// Half of the 4 MiB that gRPC clients accept by default.
const MAX_PAGE_BYTES: usize = 2 * 1024 * 1024;

/// A row whose size in a response can be estimated.
pub trait ApproximateSize {
    /// Returns the size in bytes. Only texts of variable length count; the other fields are small.
    fn approximate_size(&self) -> usize;
}

/// One page, and the token of the next page; the last page has an empty token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    pub items: Vec<T>,
    pub next_page_token: String,
}

impl<T: ApproximateSize> Page<T> {
    /// Builds a page from up to `size + 1` rows; the extra row signals a next page. The page is cut short if it would
    /// exceed the message size limit, but has at least one row.
    pub fn from_rows(mut rows: Vec<T>, size: PageSize, scope: &PageTokenScope, cursor: impl Fn(&T) -> Cursor) -> Self {
        let mut bytes = 0;
        let fitting = rows.iter().take(size.get()).take_while(|row| {
            bytes += row.approximate_size();
            bytes <= MAX_PAGE_BYTES
        });
        let count = fitting.count().max(1);
        let has_more = rows.len() > count;
        rows.truncate(count);
        let last = rows.last().filter(|_| has_more);
        let next_page_token = last.map(|last| scope.encode(cursor(last))).unwrap_or_default();
        Self { items: rows, next_page_token }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_page_size_is_capped_defaulted_and_never_negative() {
        for (size, expected) in
            [(0, Some(50)), (1, Some(1)), (500, Some(500)), (501, Some(500)), (i32::MAX, Some(500)), (-1, None)]
        {
            assert_eq!(PageSize::parse(size).ok().map(PageSize::get), expected, "{size}");
        }
    }

    impl ApproximateSize for i64 {
        fn approximate_size(&self) -> usize {
            usize::try_from(*self).unwrap()
        }
    }

    fn cursor(order: i64) -> Cursor {
        Cursor { order, id: Uuid::nil() }
    }

    fn page(rows: Vec<i64>, size: i32) -> Page<i64> {
        let size = PageSize::parse(size).unwrap();
        Page::from_rows(rows, size, &PageTokenScope::new("numbers"), |&order| cursor(order))
    }

    #[test]
    fn a_page_of_large_rows_is_cut_short_but_not_empty() {
        let (large, half) = (3_000_000, 1_000_000);
        let cut_short = page(vec![half, half, half], 10);
        assert_eq!((cut_short.items.len(), cut_short.next_page_token.is_empty()), (2, false));
        let one_row = page(vec![large, 1], 10);
        assert_eq!((one_row.items.as_slice(), one_row.next_page_token.is_empty()), ([large].as_slice(), false));
        assert_eq!(page(Vec::new(), 10).next_page_token, "");
    }

    #[test]
    fn a_page_has_a_next_page_token_only_if_more_rows_follow() {
        assert_eq!(page(vec![1, 2], 2).next_page_token, "");
        let first = page(vec![1, 2, 3], 2);
        assert_eq!(first.items, [1, 2]);
        assert_eq!(PageTokenScope::new("numbers").decode(&first.next_page_token).unwrap(), Some(cursor(2)));
    }

    proptest! {
        #[test]
        fn a_page_token_is_valid_undamaged_and_in_its_own_scope_only(
            order in any::<i64>(), id in any::<u128>(), flip in 0..TOKEN_BYTES
        ) {
            let cursor = Cursor { order, id: Uuid::from_u128(id) };
            let scope = PageTokenScope::new("ListPackages of one");
            let token = scope.encode(cursor);
            prop_assert_eq!(scope.decode(&token), Ok(Some(cursor)));
            prop_assert!(PageTokenScope::new("ListPackages of another").decode(&token).is_err());

            let mut bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
            bytes[flip] ^= 1;
            prop_assert!(scope.decode(&URL_SAFE_NO_PAD.encode(bytes)).is_err());
        }

        #[test]
        fn decoding_arbitrary_text_as_a_page_token_fails_without_a_panic(token in "\\PC{0,60}") {
            let decoded = PageTokenScope::new("any").decode(&token);
            prop_assert_eq!(decoded.is_ok(), token.is_empty());
        }
    }
}
