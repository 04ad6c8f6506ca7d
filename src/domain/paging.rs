//! Pages of a list, by keyset: a page goes on after the last row of the one before, so that rows which come or go in
//! between neither repeat nor hide any other.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::validation::{InvalidValue, Reason};

const DEFAULT_SIZE: u16 = 50;
const MAX_SIZE: u16 = 500;

/// How many rows a page has at most: 1 … 500.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageSize(u16);

impl PageSize {
    /// 0 means 50, more than 500 means 500.
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

/// The place of a row in a list that is ordered by a number and then by id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    pub order: i64,
    pub id: Uuid,
}

/// What a token was made for: the list, its tenant and its filters. A token for another one is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageTokenScope(String);

const CHECKSUM_BYTES: usize = 8;
const ORDER_BYTES: usize = 8;
const TOKEN_BYTES: usize = ORDER_BYTES + 16 + CHECKSUM_BYTES;

impl PageTokenScope {
    /// `text` tells lists apart: whatever differs in it is another list.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Opaque to callers, though no secret: it names a place in their own list. The tag tells a damaged token, and one
    /// that was made for something else.
    pub fn token(&self, position: Cursor) -> String {
        let mut bytes = Vec::with_capacity(TOKEN_BYTES);
        bytes.extend(position.order.to_be_bytes());
        bytes.extend(position.id.into_bytes());
        bytes.extend(self.checksum(&bytes));
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The place a token stands for; the empty one stands for the start.
    ///
    /// # Errors
    /// `BAD_FORMAT` for what [`PageTokenScope::token`] did not make, or made for another list.
    pub fn parse(&self, token: &str) -> Result<Option<Cursor>, InvalidValue> {
        if token.is_empty() {
            return Ok(None);
        }
        self.position(token).map(Some).ok_or_else(Self::invalid_page_token)
    }

    pub fn invalid_page_token() -> InvalidValue {
        InvalidValue::new(Reason::BadFormat, "is no token of this list: use next_page_token with the same filters")
    }

    fn position(&self, token: &str) -> Option<Cursor> {
        let bytes: [u8; TOKEN_BYTES] = URL_SAFE_NO_PAD.decode(token).ok()?.try_into().ok()?;
        let (place, checksum) = bytes.split_at(TOKEN_BYTES - CHECKSUM_BYTES);
        let (order, id) = place.split_at(ORDER_BYTES);
        let position = Cursor { order: i64::from_be_bytes(order.try_into().ok()?), id: Uuid::from_slice(id).ok()? };
        (checksum == self.checksum(place)).then_some(position)
    }

    fn checksum(&self, place: &[u8]) -> [u8; CHECKSUM_BYTES] {
        let digest = Sha256::new().chain_update(place).chain_update(self.0.as_bytes()).finalize();
        let mut checksum = [0; CHECKSUM_BYTES];
        checksum.copy_from_slice(&digest[..CHECKSUM_BYTES]);
        checksum
    }
}

/// Half of what clients accept for a message unless they are told otherwise.
const MAX_PAGE_BYTES: usize = 2 * 1024 * 1024;

/// What a row adds to a message, in bytes: of texts without a bound that is small anyway.
pub trait ApproximateSize {
    fn bytes(&self) -> usize;
}

/// One page, and the token of the next; empty at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    pub items: Vec<T>,
    pub next_page_token: String,
}

impl<T> Page<T> {
    /// From one row more than the page has, where there are so many: that row says that there is a next page. It ends
    /// before its size where it would become too large a message.
    pub fn from_rows(
        mut rows: Vec<T>,
        size: PageSize,
        page_token_scope: &PageTokenScope,
        position: impl Fn(&T) -> Cursor,
    ) -> Self
    where
        T: ApproximateSize,
    {
        let mut bytes = 0;
        let light = rows.iter().take(size.get()).take_while(|row| {
            bytes += row.bytes();
            bytes <= MAX_PAGE_BYTES
        });
        // One row fits whatever it weighs.
        let count = light.count().max(1);
        let has_more = rows.len() > count;
        rows.truncate(count);
        let next_page_token =
            rows.last().filter(|_| has_more).map(|last| page_token_scope.token(position(last))).unwrap_or_default();
        Self { items: rows, next_page_token }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_bounded() {
        for (size, expected) in
            [(0, Some(50)), (1, Some(1)), (500, Some(500)), (501, Some(500)), (i32::MAX, Some(500)), (-1, None)]
        {
            assert_eq!(PageSize::parse(size).ok().map(PageSize::get), expected, "{size}");
        }
    }

    impl ApproximateSize for i64 {
        fn bytes(&self) -> usize {
            usize::try_from(*self).unwrap()
        }
    }

    #[test]
    fn a_page_of_heavy_rows_ends_early_and_never_empty() {
        let page_token_scope = PageTokenScope::new("numbers");
        let position = |&order: &i64| Cursor { order, id: Uuid::nil() };
        let size = PageSize::parse(10).unwrap();
        let (heavy, half) = (3_000_000, 1_000_000);
        let page = Page::from_rows(vec![half, half, half], size, &page_token_scope, position);
        assert_eq!((page.items.len(), page.next_page_token.is_empty()), (2, false));
        let page = Page::from_rows(vec![heavy, 1], size, &page_token_scope, position);
        assert_eq!((page.items.as_slice(), page.next_page_token.is_empty()), ([heavy].as_slice(), false));
        let page = Page::from_rows(Vec::<i64>::new(), size, &page_token_scope, position);
        assert_eq!(page.next_page_token, "");
    }

    #[test]
    fn a_page_has_a_next_one_only_if_there_is_a_row_beyond_it() {
        let page_token_scope = PageTokenScope::new("numbers");
        let position = |&order: &i64| Cursor { order, id: Uuid::nil() };
        let size = PageSize::parse(2).unwrap();
        assert_eq!(Page::from_rows(vec![1, 2], size, &page_token_scope, position).next_page_token, "");
        let first = Page::from_rows(vec![1, 2, 3], size, &page_token_scope, position);
        assert_eq!(first.items, [1, 2]);
        assert_eq!(page_token_scope.parse(&first.next_page_token).unwrap(), Some(position(&2)));
    }

    proptest! {
        #[test]
        fn a_token_comes_back_and_only_to_its_own_list(order in any::<i64>(), id in any::<u128>(), flip in 0..TOKEN_BYTES) {
            let position = Cursor { order, id: Uuid::from_u128(id) };
            let page_token_scope = PageTokenScope::new("ListPackages of one");
            let token = page_token_scope.token(position);
            prop_assert_eq!(page_token_scope.parse(&token), Ok(Some(position)));
            prop_assert!(PageTokenScope::new("ListPackages of another").parse(&token).is_err());

            let mut bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
            bytes[flip] ^= 1;
            prop_assert!(page_token_scope.parse(&URL_SAFE_NO_PAD.encode(bytes)).is_err());
        }

        #[test]
        fn no_text_makes_it_panic(token in "\\PC{0,60}") {
            let parsed = PageTokenScope::new("any").parse(&token);
            prop_assert_eq!(parsed.is_ok(), token.is_empty());
        }
    }
}
