//! Keyset pagination: a page continues after the last row of the page before, so that rows inserted or deleted between
//! two calls neither repeat nor hide other rows. Each list has its own order and filters.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use uuid::Uuid;

use super::validation::{InvalidValue, Reason};

const DEFAULT_SIZE: u16 = 50;
const MAX_SIZE: u16 = 500;

/// Maximum number of rows of a page: 1 … 500.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageSize(u16);

impl PageSize {
    pub const MAX: Self = Self(MAX_SIZE);

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

/// The position of a row in the order of its list, as a page token carries it.
pub trait PageCursor: Sized {
    fn to_bytes(&self) -> Vec<u8>;

    /// Returns `None` if [`PageCursor::to_bytes`] cannot have returned these bytes.
    fn from_bytes(bytes: &[u8]) -> Option<Self>;
}

/// The position of a row in a list that is ordered by a number and then by id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    pub order: i64,
    pub id: Uuid,
}

impl Cursor {
    /// Precedes all rows.
    pub const START: Self = Self { order: i64::MIN, id: Uuid::nil() };
}

impl PageCursor for Cursor {
    fn to_bytes(&self) -> Vec<u8> {
        [&self.order.to_be_bytes()[..], self.id.as_bytes()].concat()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (order, id) = bytes.split_first_chunk()?;
        Some(Self { order: i64::from_be_bytes(*order), id: Uuid::from_slice(id).ok()? })
    }
}

/// The position of a row in a list that is ordered by slug.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlugCursor(pub String);

impl PageCursor for SlugCursor {
    fn to_bytes(&self) -> Vec<u8> {
        self.0.clone().into_bytes()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        // Slugs are ASCII. Postgres would reject a NUL character.
        let is_slug_text = bytes.iter().all(u8::is_ascii_graphic);
        is_slug_text.then(|| Self(bytes.iter().copied().map(char::from).collect()))
    }
}

/// Returns a time as microseconds since 1970, the precision of Postgres timestamps. 64 bits hold 290,000 years of them;
/// Postgres stores timestamps in 64 bits, too.
pub fn micros_since_epoch(time: OffsetDateTime) -> i64 {
    i64::try_from(time.unix_timestamp_nanos() / 1_000).unwrap_or(i64::MAX)
}

/// Returns `None` for a time before 1970, because no row is older, and for one that a timestamp cannot represent.
pub fn time_from_micros(micros: i64) -> Option<OffsetDateTime> {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000).ok()?;
    (time >= OffsetDateTime::UNIX_EPOCH).then_some(time)
}

/// The list, tenant, order and filters that a page token is valid for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageTokenScope(String);

const CHECKSUM_BYTES: usize = 8;

impl PageTokenScope {
    /// Creates the scope that `text` identifies: different texts are different scopes.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Encodes a cursor as a page token. The token is opaque but not secret, because it names a position in a list that
    /// the caller may read. Its checksum detects damaged tokens and tokens of another scope.
    pub fn encode(&self, cursor: &impl PageCursor) -> String {
        let mut bytes = cursor.to_bytes();
        bytes.extend(self.checksum(&bytes));
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Decodes a page token. The empty token means the start of the list and gives `None`.
    ///
    /// # Errors
    /// `BAD_FORMAT` if [`PageTokenScope::encode`] did not create the token for this scope.
    pub fn decode<C: PageCursor>(&self, token: &str) -> Result<Option<C>, InvalidValue> {
        if token.is_empty() {
            return Ok(None);
        }
        self.decode_cursor(token).map(Some).ok_or_else(Self::invalid_page_token)
    }

    pub fn invalid_page_token() -> InvalidValue {
        let message = "is not a valid page token for this list: use next_page_token with unchanged filters";
        InvalidValue::new(Reason::BadFormat, message)
    }

    fn decode_cursor<C: PageCursor>(&self, token: &str) -> Option<C> {
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (cursor, checksum) = bytes.split_last_chunk::<CHECKSUM_BYTES>()?;
        if *checksum != self.checksum(cursor) {
            return None;
        }
        C::from_bytes(cursor)
    }

    fn checksum(&self, cursor: &[u8]) -> [u8; CHECKSUM_BYTES] {
        let digest = Sha256::new().chain_update(cursor).chain_update(self.0.as_bytes()).finalize();
        let mut checksum = [0; CHECKSUM_BYTES];
        checksum.copy_from_slice(&digest[..CHECKSUM_BYTES]);
        checksum
    }
}

/// A page ends with the row that reaches this many bytes. Half of the 4 MiB that gRPC clients accept by default, and
/// little enough for many pages in memory at once. The store measures the rows in the statement or while they arrive,
/// so that no more are ever in memory.
pub const MAX_PAGE_BYTES: i64 = 2 * 1024 * 1024;

/// A row of a list, as the database returns it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListRow<T> {
    pub item: T,
    /// Whether another row of the list follows, on this page or the next.
    pub has_next: bool,
}

impl<T> ListRow<T> {
    pub fn filter_map<U>(self, convert: impl FnOnce(T) -> Option<U>) -> Option<ListRow<U>> {
        Some(ListRow { item: convert(self.item)?, has_next: self.has_next })
    }
}

/// A row of a list that reads more rows than it selects. The last row that was read may be one that is not selected:
/// only the position for the next page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScannedRow<T> {
    pub row: ListRow<T>,
    pub is_selected: bool,
}

/// One page, and the token of the next page; the last page has an empty token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    pub items: Vec<T>,
    pub next_page_token: String,
}

impl<T> Page<T> {
    /// Builds a page from the rows that the database returned, which may be more than `size`.
    pub fn from_rows<C: PageCursor>(
        rows: Vec<ListRow<T>>,
        size: PageSize,
        scope: &PageTokenScope,
        cursor: impl Fn(&T) -> C,
    ) -> Self {
        let scanned = rows.into_iter().map(|row| ScannedRow { row, is_selected: true });
        Self::from_scan(scanned, size, scope, cursor)
    }

    /// Builds a page from the rows that the database returned. They may be more than `size`, and few of them selected.
    pub fn from_scan<C: PageCursor>(
        rows: impl IntoIterator<Item = ScannedRow<T>>,
        size: PageSize,
        scope: &PageTokenScope,
        cursor: impl Fn(&T) -> C,
    ) -> Self {
        let (mut items, mut next) = (Vec::new(), None);
        for ScannedRow { row, is_selected } in rows {
            if is_selected && items.len() == size.get() {
                break;
            }
            next = row.has_next.then(|| cursor(&row.item));
            if is_selected {
                items.push(row.item);
            }
        }
        Self { items, next_page_token: next.map(|next| scope.encode(&next)).unwrap_or_default() }
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

    #[test]
    fn a_page_has_a_next_page_token_only_if_more_rows_follow() {
        let page = |has_next: &[bool], size| {
            let rows = (1..).zip(has_next).map(|(item, &has_next)| ListRow { item, has_next }).collect();
            let cursor = |&order: &i64| Cursor { order, id: Uuid::nil() };
            let page = Page::from_rows(rows, PageSize::parse(size).unwrap(), &PageTokenScope::new("numbers"), cursor);
            let next = PageTokenScope::new("numbers").decode(&page.next_page_token).unwrap();
            (page.items, next.map(|cursor: Cursor| cursor.order))
        };
        assert_eq!(page(&[], 2), (vec![], None));
        assert_eq!(page(&[true, false], 2), (vec![1, 2], None));
        assert_eq!(page(&[true, true, false], 2), (vec![1, 2], Some(2)));
        assert_eq!(page(&[true], 2), (vec![1], Some(1)), "the database ended the page");
    }

    #[test]
    fn a_page_of_a_scan_continues_after_the_last_row_that_was_read() {
        // The rows that are selected, and whether the scan ended before the list.
        let page = |selected: &[bool], is_cut: bool| {
            let rows = (1..).zip(selected).map(|(item, &is_selected)| {
                let has_next = is_cut || item < selected.len();
                ScannedRow { row: ListRow { item, has_next }, is_selected }
            });
            let cursor = |&item: &usize| Cursor { order: i64::try_from(item).unwrap(), id: Uuid::nil() };
            let scope = PageTokenScope::new("numbers");
            let page = Page::from_scan(rows, PageSize::parse(2).unwrap(), &scope, cursor);
            (page.items, scope.decode(&page.next_page_token).unwrap().map(|cursor: Cursor| cursor.order))
        };
        assert_eq!(page(&[true], false), (vec![1], None));
        assert_eq!(page(&[false], true), (vec![], Some(1)));
        assert_eq!(page(&[true, false], true), (vec![1], Some(2)));
        assert_eq!(page(&[true, true, false], true), (vec![1, 2], Some(3)));
        assert_eq!(page(&[true, true, true], true), (vec![1, 2], Some(2)));
    }

    proptest! {
        #[test]
        fn a_page_token_is_valid_undamaged_and_in_its_own_scope_only(
            order in any::<i64>(), id in any::<u128>(), slug in "[a-z0-9-]{0,63}", flip in any::<prop::sample::Index>()
        ) {
            assert_token_is_bound(&Cursor { order, id: Uuid::from_u128(id) }, flip);
            assert_token_is_bound(&SlugCursor(slug), flip);
        }

        #[test]
        fn decoding_arbitrary_text_as_a_page_token_fails_without_a_panic(token in "\\PC{0,60}") {
            let decoded = PageTokenScope::new("any").decode::<Cursor>(&token);
            prop_assert_eq!(decoded.is_ok(), token.is_empty());
            prop_assert_eq!(PageTokenScope::new("any").decode::<SlugCursor>(&token).is_ok(), token.is_empty());
        }
    }

    fn assert_token_is_bound<C: PageCursor + Clone + PartialEq + std::fmt::Debug>(
        cursor: &C,
        flip: prop::sample::Index,
    ) {
        let scope = PageTokenScope::new("ListPackages of one");
        let token = scope.encode(cursor);
        assert_eq!(scope.decode(&token), Ok(Some(cursor.clone())));
        assert!(PageTokenScope::new("ListPackages of another").decode::<C>(&token).is_err());

        let mut bytes = URL_SAFE_NO_PAD.decode(token).unwrap();
        let flip = flip.index(bytes.len());
        bytes[flip] ^= 1;
        assert!(scope.decode::<C>(&URL_SAFE_NO_PAD.encode(bytes)).is_err());
    }
}
