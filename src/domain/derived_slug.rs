//! Slugs made from names.

use unicode_normalization::{UnicodeNormalization as _, char::is_combining_mark};

use super::{
    slug::{MAX_LENGTH, Slug, TenantSlug},
    validation::{InvalidValue, Reason},
};

/// What a name gives for a slug: letters folded to ASCII, apostrophes dropped, every other run of characters one `-`, an
/// `s-` before a leading digit, cut at a word at 63 characters.
///
/// It need not be a slug yet (`Q` gives `q`), but with a number behind it, it is: see [`SlugStem::first_suffix`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlugStem(String);

impl SlugStem {
    /// # Errors
    /// `BAD_FORMAT` where the name has nothing that a slug could be made of.
    pub fn from_name(name: &str) -> Result<Self, InvalidValue> {
        let mut stem = fold(name);
        if stem.is_empty() {
            return Err(InvalidValue::new(Reason::BadFormat, "has no letter or digit that a slug could be made of"));
        }
        if stem.starts_with(|first: char| first.is_ascii_digit()) {
            stem.insert_str(0, "s-");
        }
        truncate_at_word_boundary(&mut stem, MAX_LENGTH);
        Ok(Self(stem))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As it is, where that is a tenant's slug already.
    pub fn as_tenant_slug(&self) -> Option<TenantSlug> {
        TenantSlug::parse(&self.0).ok()
    }

    /// With this behind it, and cut at a word where it would become too long. `None` where the ending itself is no part of a slug.
    pub fn with_suffix(&self, suffix: &str) -> Option<TenantSlug> {
        let mut slug = self.0.clone();
        truncate_at_word_boundary(&mut slug, MAX_LENGTH.checked_sub(suffix.len() + 1)?);
        TenantSlug::parse(&format!("{slug}-{suffix}")).ok()
    }

    /// The smallest number that makes a slug of it: 1 stands for none, 2 for `-2`, and so on.
    pub fn first_suffix(&self) -> i32 {
        if Slug::parse(&self.0).is_ok() { 1 } else { 2 }
    }
}

fn fold(name: &str) -> String {
    let mut folded = String::with_capacity(name.len());
    let mut pending_separator = false;
    let mut push = |ch: char, folded: &mut String| {
        if ch.is_ascii_alphanumeric() {
            if pending_separator && !folded.is_empty() {
                folded.push('-');
            }
            pending_separator = false;
            folded.push(ch.to_ascii_lowercase());
        } else if !is_apostrophe(ch) {
            pending_separator = true;
        }
    };
    // Compatibility forms first: they turn full-width letters and ligatures into plain ones, and letters that were typed
    // with a combining accent into one character. Apostrophes go before that: some would become a space and an accent.
    // And so do symbols, some of which would become letters.
    let letters = name.chars().filter(|&ch| !is_apostrophe(ch));
    let letters = letters.map(|ch| if is_letterlike_symbol(ch) { ' ' } else { ch });
    // A vowel sign is a mark that is a letter as well.
    for ch in letters.nfkc().filter(|&ch| ch.is_alphanumeric() || !is_combining_mark(ch)) {
        match deunicode::deunicode_char(ch) {
            // Only letters and digits: deunicode would also name emoji and symbols.
            Some(ascii) if ch.is_alphanumeric() => ascii.chars().for_each(|ascii| push(ascii, &mut folded)),
            _ => push(' ', &mut folded),
        }
    }
    folded
}

const fn is_apostrophe(ch: char) -> bool {
    matches!(ch, '\'' | '`' | '´' | '‘' | '’' | '‛' | 'ʹ' | 'ʻ' | 'ʼ' | 'ʽ' | '′' | '＇')
}

/// Trade marks, circled and squared letters and the like, by their blocks.
const fn is_letterlike_symbol(ch: char) -> bool {
    matches!(ch, '\u{2100}'..='\u{214f}' | '\u{2460}'..='\u{24ff}' | '\u{3200}'..='\u{33ff}' | '\u{1f100}'..='\u{1f2ff}')
}

fn truncate_at_word_boundary(stem: &mut String, max_length: usize) {
    if stem.len() <= max_length {
        return;
    }
    let ends_a_word = stem.as_bytes()[max_length] == b'-';
    stem.truncate(max_length);
    // A single word that long is cut where it is; the `s-` before a number is no word.
    if let Some(gap) = stem.rfind('-').filter(|&gap| !ends_a_word && gap > "s-".len()) {
        stem.truncate(gap);
    }
    stem.truncate(stem.trim_end_matches('-').len());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stem(name: &str) -> String {
        SlugStem::from_name(name).unwrap().0
    }

    #[test]
    fn names_become_what_a_person_would_type() {
        for (name, expected) in [
            ("Bella Weddings & Co. Photography", "bella-weddings-co-photography"),
            ("Ömer's Café", "omers-cafe"),
            ("O\u{2019}Neill\u{2019}s", "oneills"),
            ("Cafe\u{301} Zoe\u{308}", "cafe-zoe"),
            ("Straße Łódź Øre Æon", "strasse-lodz-ore-aeon"),
            ("Москва", "moskva"),
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
    fn a_name_with_nothing_usable_is_refused() {
        for name in ["🎂🎂", "---", "&%$", "'", "\u{301}"] {
            assert_eq!(SlugStem::from_name(name).unwrap_err().reason, Reason::BadFormat, "{name}");
        }
    }

    #[test]
    fn long_names_are_cut_at_a_word() {
        assert_eq!(stem(&"a".repeat(150)), "a".repeat(63));
        assert_eq!(stem(&"1".repeat(150)), format!("s-{}", "1".repeat(61)));
        assert_eq!(stem(&format!("{} {}", "a".repeat(60), "b".repeat(9))), "a".repeat(60));
        // Two letters alone would be no slug.
        assert_eq!(stem(&format!("ab {}", "c".repeat(70))), format!("ab-{}", "c".repeat(60)));
        assert_eq!(stem(&format!("abc {}", "d".repeat(70))), "abc");
        assert_eq!(stem(&format!("{} {}", "a".repeat(63), "b".repeat(9))), "a".repeat(63));
        assert_eq!(
            stem(&format!("{} {} c", "a".repeat(31), "b".repeat(31))),
            format!("{}-{}", "a".repeat(31), "b".repeat(31))
        );
    }

    #[test]
    fn what_is_no_slug_by_itself_needs_a_number() {
        for (name, suffix) in [("Bella", 1), ("Q", 2), ("ab", 2), ("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", 2)] {
            assert_eq!(SlugStem::from_name(name).unwrap().first_suffix(), suffix, "{name}");
        }
    }

    #[test]
    fn a_tenants_slug_gets_an_ending_where_the_stem_will_not_do() {
        let slug = |name: &str| SlugStem::from_name(name).unwrap().as_tenant_slug().map(|slug| slug.to_string());
        assert_eq!(slug("Bella"), Some("bella".to_owned()));
        for no_slug in ["Admin", "Q", "ab", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"] {
            assert_eq!(slug(no_slug), None, "{no_slug}");
        }
        let ended = |name: &str| SlugStem::from_name(name).unwrap().with_suffix("x7k2pd").unwrap().to_string();
        assert_eq!(ended("Admin"), "admin-x7k2pd");
        assert_eq!(ended("Q"), "q-x7k2pd");
        assert_eq!(ended(&"a".repeat(150)), format!("{}-x7k2pd", "a".repeat(56)));
        assert_eq!(ended(&format!("{} {}", "a".repeat(55), "b".repeat(7))), format!("{}-x7k2pd", "a".repeat(55)));
        assert_eq!(ended(&"word ".repeat(40)), format!("{}x7k2pd", "word-".repeat(11)));
    }

    proptest! {
        #[test]
        fn whatever_the_name_the_stem_with_an_ending_is_a_tenants_slug(name in "\\PC{0,120}") {
            if let Ok(stem) = SlugStem::from_name(&name) {
                prop_assert!(stem.with_suffix("x7k2pd").is_some(), "{}", stem.as_str());
            }
        }

        #[test]
        fn whatever_the_name_the_stem_with_a_number_is_a_slug(name in "\\PC{0,120}") {
            if let Ok(stem) = SlugStem::from_name(&name) {
                prop_assert!(stem.as_str().len() <= MAX_LENGTH);
                if stem.first_suffix() == 1 {
                    prop_assert!(Slug::parse(stem.as_str()).is_ok());
                }
                let short: String = stem.as_str().chars().take(60).collect();
                let numbered = format!("{}-2", short.trim_end_matches('-'));
                prop_assert!(Slug::parse(&numbered).is_ok(), "{}", numbered);
            }
        }
    }
}
