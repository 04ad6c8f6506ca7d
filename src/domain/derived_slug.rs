//! Derives slugs from names.
//!
//! [`SlugStem::from_name`] converts a name to a stem. [`SlugStem::numbered`] appends a number, to make it unique among
//! the packages or segments of a tenant ([`super::slug_chooser`]); [`SlugStem::with_suffix`] appends the caller's
//! suffix, to make it unique among tenants.

use std::mem;

use unicode_normalization::{UnicodeNormalization as _, char::is_combining_mark};

use super::{
    slug::{MAX_LENGTH, MIN_LENGTH, Slug, TenantSlug},
    validation::{InvalidValue, Reason},
};

/// The part of a slug that is derived from a name. Letters and digits are transliterated to lower-case ASCII,
/// apostrophes are removed, and each sequence of other characters between words becomes one `-`. A stem that would
/// start with a digit gets the prefix `s-`. A stem of more than 63 characters is truncated, if possible at a word
/// boundary.
///
/// A stem is not always a valid slug (`Q` gives `q`), but with a numeric suffix it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SlugStem(String);

impl SlugStem {
    /// Derives the stem of a name.
    ///
    /// # Errors
    /// `BAD_FORMAT` if no character of the name can be transliterated to an ASCII letter or digit.
    pub fn from_name(name: &str) -> Result<Self, InvalidValue> {
        let mut stem = fold(name);
        if stem.is_empty() {
            return Err(InvalidValue::new(Reason::BadFormat, "must contain a letter or digit to derive a slug from"));
        }
        if stem.starts_with(|first: char| first.is_ascii_digit()) {
            stem.insert_str(0, "s-");
        }
        Ok(Self(truncate_at_word_boundary(&stem, MAX_LENGTH).to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the stem itself if it is a valid tenant slug.
    pub fn to_tenant_slug(&self) -> Option<TenantSlug> {
        TenantSlug::parse(&self.0).ok()
    }

    /// Appends `-` and `suffix`, and truncates the stem at a word boundary if the slug would become too long. Returns
    /// `None` if `suffix` cannot be part of a slug.
    pub fn with_suffix(&self, suffix: &str) -> Option<TenantSlug> {
        let stem = truncate_at_word_boundary(&self.0, MAX_LENGTH.checked_sub(suffix.len() + 1)?);
        TenantSlug::parse(&format!("{stem}-{suffix}")).ok()
    }

    /// Returns the slug with this number: the stem itself for 1, if it is a valid slug; otherwise the stem with `-2`,
    /// `-3` and so on. If the slug would exceed 63 characters, the stem is truncated, if possible at a word boundary.
    pub fn numbered(&self, number: u64) -> Option<Slug> {
        let slug = match number {
            0 | 1 => self.0.clone(),
            _ => format!("{}{number}", self.prefix(number.ilog10() + 1)),
        };
        Slug::parse(&slug).ok()
    }

    /// Returns what precedes a number of this many digits in [`Self::numbered`].
    pub fn prefix(&self, digits: u32) -> String {
        format!("{}-", truncate_at_word_boundary(&self.0, MAX_LENGTH - "-".len() - digits as usize))
    }
}

fn fold(name: &str) -> String {
    let mut folded = String::with_capacity(name.len());
    let mut pending_separator = false;
    // NFKC converts full-width letters and ligatures to plain letters, and composes a letter and a combining accent
    // into one character. It also converts some apostrophes to a space and an accent, and some symbols to letters, so
    // remove these first.
    let chars = name.chars().filter(|&ch| !is_apostrophe(ch));
    let chars = chars.map(|ch| if is_letterlike_symbol(ch) { ' ' } else { ch });
    // Vowel signs are combining marks and alphabetic; they are kept.
    for ch in chars.nfkc().filter(|&ch| ch.is_alphanumeric() || !is_combining_mark(ch)) {
        for ascii in transliterate(ch).unwrap_or(" ").chars() {
            if ascii.is_ascii_alphanumeric() {
                if mem::take(&mut pending_separator) && !folded.is_empty() {
                    folded.push('-');
                }
                folded.push(ascii.to_ascii_lowercase());
            } else if ascii == ' ' {
                pending_separator = true;
            }
            // Drop signs that are a part of a letter, such as the apostrophe of `ь`.
        }
    }
    folded
}

/// Returns the ASCII spelling of a letter or digit, with a space at the end of an ideograph.
fn transliterate(ch: char) -> Option<&'static str> {
    match ch {
        // Deunicode spells a schwa `@`.
        'Ə' | 'ə' | 'ǝ' => Some("e"),
        'Ә' | 'ә' | 'Ӛ' | 'ӛ' => Some("a"),
        // Only letters and digits: deunicode also spells out emoji and symbols.
        _ if ch.is_alphanumeric() => deunicode::deunicode_char(ch),
        _ => None,
    }
}

/// Whether the character is an apostrophe of some script, or one that is typed or transliterated as an apostrophe.
const fn is_apostrophe(ch: char) -> bool {
    matches!(
        ch,
        '\'' | '`' | '´' | '＇' | '｀'
            | '‘' | '’' | '‛' | '′' | '‵'
            // Modifier letters: primes, turned and reversed commas, half rings, vertical line, acute and grave accent.
            | '\u{2b9}'
            ..='\u{2bf}' | '\u{2c8}' | '\u{2ca}' | '\u{2cb}' | '\u{2ee}'
            // Greek tonos, koronis, psili, varia, oxia and dasia; Armenian; Hebrew geresh; N’Ko; saltillo.
            | '\u{384}' | '\u{1fbd}' | '\u{1fbf}' | '\u{1fef}' | '\u{1ffd}' | '\u{1ffe}'
            | '\u{559}' | '\u{55a}' | '\u{5f3}' | '\u{7f4}' | '\u{7f5}' | '\u{a78b}' | '\u{a78c}'
    )
}

/// Whether the character is a trademark sign, a circled or squared letter or similar, by its Unicode block.
const fn is_letterlike_symbol(ch: char) -> bool {
    matches!(ch, '\u{2100}'..='\u{214f}' | '\u{2460}'..='\u{24ff}' | '\u{3200}'..='\u{33ff}' | '\u{1f100}'..='\u{1f2ff}')
}

fn truncate_at_word_boundary(stem: &str, max_length: usize) -> &str {
    if stem.len() <= max_length {
        return stem;
    }
    let truncated = &stem[..max_length];
    let ends_a_word = stem.as_bytes()[max_length] == b'-';
    match truncated.rfind('-') {
        Some(boundary) if !ends_a_word && boundary >= MIN_LENGTH => &truncated[..boundary],
        // The cut is at the end of a word, or the words before it are too short for a slug, as the prefix `s-` is.
        _ => truncated.trim_end_matches('-'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stem(name: &str) -> String {
        SlugStem::from_name(name).unwrap().0
    }

    #[test]
    fn stems_are_what_a_person_would_type() {
        for (name, expected) in [
            ("Bella Weddings & Co. Photography", "bella-weddings-co-photography"),
            ("Ömer's Café", "omers-cafe"),
            ("O\u{2019}Neill\u{2019}s", "oneills"),
            ("Cafe\u{301} Zoe\u{308}", "cafe-zoe"),
            ("Straße Łódź Øre Æon", "strasse-lodz-ore-aeon"),
            ("Москва", "moskva"),
            ("Большой Объект", "bolshoi-obekt"),
            ("Gəncə Əliyev", "gence-eliyev"),
            ("Әсел Ӛ", "asel-a"),
            ("ԴՕՐԵ ՚ի Քար", "dore-i-kar"),
            ("Rock n\u{55a} Roll", "rock-n-roll"),
            ("北京", "bei-jing"),
            ("Ｆｕｌｌ　ｗｉｄｔｈ ﬁt", "full-width-fit"),
            ("Rock&Roll", "rock-roll"),
            ("Bella™ Weddings℠", "bella-weddings"),
            ("Ⓜetro №1 🅱akery", "etro-1-akery"),
            ("किताब", "kitaab"),
            ("🎂 Cake ❤ Love 🎂", "cake-love"),
            ("123 Go", "s-123-go"),
            ("50% off", "s-50-off"),
            ("Q", "q"),
            ("--a--", "a"),
            ("Admin", "admin"),
        ] {
            assert_eq!(stem(name), expected, "{name}");
        }
    }

    #[test]
    fn apostrophes_of_all_scripts_are_dropped() {
        let apostrophes = "'`´＇｀‘’‛′‵ʹʻʼʽʾʿˈˊˋˮ\u{384}\u{1fbd}\u{1fbf}\u{1fef}\u{1ffd}\u{1ffe}ՙ՚׳ߴߵꞋꞌ";
        for apostrophe in apostrophes.chars() {
            assert_eq!(stem(&format!("O{apostrophe}Neill{apostrophe}s Café")), "oneills-cafe", "{apostrophe:?}");
        }
    }

    #[test]
    fn a_name_without_letters_and_digits_gives_no_stem() {
        for name in ["🎂🎂", "---", "&%$", "'", "\u{301}"] {
            assert_eq!(SlugStem::from_name(name).unwrap_err().reason, Reason::BadFormat, "{name}");
        }
    }

    #[test]
    fn stems_of_long_names_are_truncated_at_a_word_boundary() {
        assert_eq!(stem(&"a".repeat(150)), "a".repeat(63));
        assert_eq!(stem(&"1".repeat(150)), format!("s-{}", "1".repeat(61)));
        assert_eq!(stem(&format!("{} {}", "a".repeat(60), "b".repeat(9))), "a".repeat(60));
        // `ab` alone would be too short for a slug.
        assert_eq!(stem(&format!("ab {}", "c".repeat(70))), format!("ab-{}", "c".repeat(60)));
        assert_eq!(stem(&format!("abc {}", "d".repeat(70))), "abc");
        assert_eq!(stem(&format!("{} {}", "a".repeat(63), "b".repeat(9))), "a".repeat(63));
        assert_eq!(
            stem(&format!("{} {} c", "a".repeat(31), "b".repeat(31))),
            format!("{}-{}", "a".repeat(31), "b".repeat(31))
        );
    }

    #[test]
    fn a_tenant_slug_gets_a_suffix_if_the_stem_is_not_a_valid_one() {
        let slug = |name: &str| SlugStem::from_name(name).unwrap().to_tenant_slug().map(|slug| slug.to_string());
        assert_eq!(slug("Bella"), Some("bella".to_owned()));
        for invalid in ["Admin", "Q", "ab", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"] {
            assert_eq!(slug(invalid), None, "{invalid}");
        }
        let suffixed = |name: &str| SlugStem::from_name(name).unwrap().with_suffix("x7k2pd").unwrap().to_string();
        assert_eq!(suffixed("Admin"), "admin-x7k2pd");
        assert_eq!(suffixed("Q"), "q-x7k2pd");
        assert_eq!(suffixed(&"a".repeat(150)), format!("{}-x7k2pd", "a".repeat(56)));
        assert_eq!(suffixed(&format!("{} {}", "a".repeat(55), "b".repeat(7))), format!("{}-x7k2pd", "a".repeat(55)));
        assert_eq!(suffixed(&"word ".repeat(40)), format!("{}x7k2pd", "word-".repeat(11)));
    }
}
