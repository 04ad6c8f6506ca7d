//! Derives slugs from names.
//!
//! [`SlugStem::from_name`] converts a name to a stem. [`SlugChooser`] appends a number to make it unique among the
//! packages or segments of a tenant; [`SlugStem::with_suffix`] appends the caller's suffix, to make it unique among
//! tenants. `store` reads the existing slugs.

use std::{
    collections::{HashMap, HashSet},
    mem,
    ops::Range,
};

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
#[derive(Debug, Clone, PartialEq, Eq)]
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

    /// Returns a prefix of every slug that a [`SlugChooser`] can choose for this stem. Only slugs with this prefix can
    /// collide with the chosen one.
    pub fn slug_prefix(&self) -> &str {
        // Leaves room for suffixes of up to nine digits. No tenant has a billion packages.
        truncate_at_word_boundary(&self.0, MAX_LENGTH - "-999999999".len())
    }
}

/// Returns the stems' prefixes without those that begin with another one, so that each candidate slug starts with
/// exactly one of them and a query by prefix returns no row twice.
pub fn slug_prefixes<'a>(stems: impl IntoIterator<Item = &'a SlugStem>) -> Vec<&'a str> {
    let mut prefixes: Vec<&str> = stems.into_iter().map(SlugStem::slug_prefix).collect();
    prefixes.sort_unstable();
    prefixes.dedup_by(|prefix, previous| prefix.starts_with(*previous));
    prefixes
}

/// Chooses slugs that differ from the unavailable ones and from each other.
///
/// The total time is linear in the number of unavailable and chosen slugs, even if all of them have the same stem.
#[derive(Debug)]
pub struct SlugChooser<'a> {
    unavailable: HashSet<String>,
    /// The suffixes that have not been tried yet, by truncated stem and number of digits.
    untried_suffixes: HashMap<(&'a str, u32), Range<u64>>,
}

impl<'a> SlugChooser<'a> {
    pub fn new(unavailable: HashSet<String>) -> Self {
        Self { unavailable, untried_suffixes: HashMap::new() }
    }

    /// Returns the stem itself if it is a valid and available slug; otherwise appends `-2`, `-3` and so on, and returns
    /// the first slug that is available. If the slug would exceed 63 characters, the stem is truncated, if possible at
    /// a word boundary.
    pub fn choose(&mut self, stem: &'a SlugStem) -> Slug {
        if let Some(slug) = take_if_available(&mut self.unavailable, stem.0.clone()) {
            return slug;
        }
        let mut digits = 1;
        loop {
            let truncated = truncate_at_word_boundary(&stem.0, MAX_LENGTH - "-".len() - digits as usize);
            let suffixes = 10_u64.pow(digits - 1).max(2)..10_u64.pow(digits);
            for suffix in self.untried_suffixes.entry((truncated, digits)).or_insert(suffixes) {
                if let Some(slug) = take_if_available(&mut self.unavailable, format!("{truncated}-{suffix}")) {
                    return slug;
                }
            }
            digits += 1;
        }
    }
}

/// Returns the candidate as a slug and makes it unavailable. Returns `None` if it is unavailable already or not a valid
/// slug.
fn take_if_available(unavailable: &mut HashSet<String>, candidate: String) -> Option<Slug> {
    let slug = Slug::parse(&candidate).ok()?;
    unavailable.insert(candidate).then_some(slug)
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
    use proptest::{collection::vec, prelude::*, sample::select};

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

    fn choose(name: &str, unavailable: &[&str]) -> String {
        let unavailable = unavailable.iter().map(|&slug| slug.to_owned()).collect();
        SlugChooser::new(unavailable).choose(&SlugStem::from_name(name).unwrap()).to_string()
    }

    #[test]
    fn the_smallest_available_suffix_is_chosen_and_the_stem_truncated_for_it() {
        assert_eq!(choose("Gold", &[]), "gold");
        assert_eq!(choose("Gold", &["gold"]), "gold-2");
        assert_eq!(choose("Gold", &["gold", "gold-2", "gold-4"]), "gold-3");
        assert_eq!(choose("Gold", &["gold-2", "golden"]), "gold");
        for invalid in ["Q", "ab", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"] {
            assert_eq!(choose(invalid, &[]), format!("{}-2", stem(invalid)));
        }
        let (one_word, words) = ("a".repeat(63), format!("{}-{}", "a".repeat(58), "b".repeat(4)));
        assert_eq!(choose(&one_word, &[&one_word]), format!("{}-2", "a".repeat(61)));
        assert_eq!(choose(&words, &[&words]), format!("{}-2", "a".repeat(58)));
    }

    #[test]
    fn ten_thousand_slugs_with_one_stem_are_chosen_in_linear_time() {
        let word = "a".repeat(56);
        // The second names differ until they are truncated.
        for names in [vec![word.clone(); 10_000], (0..10_000).map(|number| format!("{word} {number:06}")).collect()] {
            let stems: Vec<_> = names.iter().map(|name| SlugStem::from_name(name).unwrap()).collect();
            let mut chooser = SlugChooser::new(stems.iter().map(|stem| stem.0.clone()).collect());
            for (stem, number) in stems.iter().zip(2..) {
                assert_eq!(chooser.choose(stem).as_str(), format!("{word}-{number}"));
            }
        }
    }

    fn any_stem() -> impl Strategy<Value = SlugStem> {
        let long = |end| format!("{} {end}", "a".repeat(55));
        let mut colliding = ["Q", "Gold", "Gold 2", "Golden", "s 1", "1"].map(str::to_owned).to_vec();
        colliding.extend(["b", "b c", "bb cc dd"].map(long));
        prop_oneof![3 => select(colliding), 1 => "\\PC{0,120}"]
            .prop_filter_map("a name without letters and digits", |name| SlugStem::from_name(&name).ok())
    }

    fn candidates(stem: &SlugStem) -> impl Iterator<Item = String> {
        let suffixed = (2..).map(|suffix: u32| stem.with_suffix(&suffix.to_string()).unwrap().to_string());
        Slug::parse(&stem.0).ok().map(|slug| slug.to_string()).into_iter().chain(suffixed)
    }

    proptest! {
        #[test]
        fn a_slug_of_short_words_ends_with_a_whole_word_also_with_a_suffix(words in vec("[b-y]{1,20}", 4..20)) {
            let slug = words.join("-");
            let whole: Vec<_> = (1..=words.len()).map(|count| words[..count].join("-")).collect();
            let name = words.join(" ");
            let first = choose(&name, &[]);
            let second = choose(&name, &[&first]);
            let tenth: Vec<String> = (2..=9).map(|number| format!("{}-{number}", second.trim_end_matches("-2"))).collect();
            let tenth = choose(&name, &tenth.iter().map(String::as_str).chain([first.as_str()]).collect::<Vec<_>>());
            prop_assert!(whole.contains(&first), "{first} {slug}");
            prop_assert!(whole.iter().any(|stem| format!("{stem}-2") == second), "{second} {slug}");
            prop_assert!(whole.iter().any(|stem| format!("{stem}-10") == tenth), "{tenth} {slug}");
        }

        #[test]
        fn each_stem_takes_suffixes_and_the_smallest_available_one_is_chosen(
            stems in vec(any_stem(), 0..40),
            existing in vec((any_stem(), 0_usize..40), 0..150),
        ) {
            let mut unavailable: HashSet<String> =
                existing.iter().filter_map(|(stem, index)| candidates(stem).nth(*index)).collect();
            let mut chooser = SlugChooser::new(unavailable.clone());
            let prefixes = slug_prefixes(&stems);
            for stem in &stems {
                prop_assert!(stem.with_suffix("x7k2pd").is_some(), "{}", stem.as_str());
                let slug = chooser.choose(stem).to_string();
                let expected = candidates(stem).find(|candidate| !unavailable.contains(candidate)).unwrap();
                prop_assert_eq!(&slug, &expected);
                prop_assert!(stem.as_str().len() <= MAX_LENGTH && slug.len() <= MAX_LENGTH);
                prop_assert!(slug.starts_with(stem.slug_prefix()), "{slug}");
                prop_assert_eq!(prefixes.iter().filter(|&&prefix| slug.starts_with(prefix)).count(), 1);
                unavailable.insert(slug);
            }
        }
    }
}
