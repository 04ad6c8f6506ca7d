//! Properties of characters by the Unicode Character Database, and case folding. Which of them a text must have is the
//! rule of its type.

use icu_casemap::CaseMapper;
use icu_properties::{
    CodePointMapData, CodePointSetData,
    props::{DefaultIgnorableCodePoint, GeneralCategory, GeneralCategoryGroup},
};
use unicode_normalization::UnicodeNormalization as _;

/// Whether the character is a letter, number, punctuation mark or symbol that shows something by itself.
///
/// Some letters and symbols are blank: the fillers of Hangul are default-ignorable, and Unicode has no property for the
/// few that remain.
pub fn is_visible(ch: char) -> bool {
    const VISIBLE: GeneralCategoryGroup = GeneralCategoryGroup::Letter
        .union(GeneralCategoryGroup::Number)
        .union(GeneralCategoryGroup::Punctuation)
        .union(GeneralCategoryGroup::Symbol);
    VISIBLE.contains(category(ch)) && !is_default_ignorable(ch) && !is_blank(ch)
}

/// Whether the character is a mark, such as an accent or a vowel sign, that changes how the one before it looks.
pub fn is_visible_mark(ch: char) -> bool {
    GeneralCategoryGroup::Mark.contains(category(ch)) && !is_default_ignorable(ch)
}

/// Whether nothing is shown for the character, as for U+200B: the property `Default_Ignorable_Code_Point`.
pub fn is_default_ignorable(ch: char) -> bool {
    CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(ch)
}

/// Returns the same text for all texts that differ only in case, by full case folding and canonical equivalence
/// (Unicode, D145). It does not depend on a language: `I` and `ı` differ.
pub fn fold_case(text: &str) -> String {
    let decomposed: String = text.nfd().collect();
    CaseMapper::new().fold_string(&decomposed).nfc().collect()
}

/// Whether this is the empty Braille pattern, the musical symbol null notehead, or a blank Egyptian hieroglyph.
const fn is_blank(ch: char) -> bool {
    matches!(ch, '\u{2800}' | '\u{1d159}' | '\u{13441}' | '\u{13442}')
}

fn category(ch: char) -> GeneralCategory {
    CodePointMapData::<GeneralCategory>::new().get(ch)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn letters_numbers_punctuation_and_symbols_are_visible_unless_they_are_blank() {
        for ch in "aß東क١½!@+€🎂\u{fffd}".chars() {
            assert!(is_visible(ch), "{ch:?}");
        }
        let blank = " \t\u{a0}\u{3000}\u{ad}\u{115f}\u{1160}\u{200b}\u{200d}\u{2028}\u{2060}\u{2800}\u{3164}\u{fe0f}";
        for ch in blank.chars().chain("\u{feff}\u{ffa0}\u{13441}\u{1d159}\u{e0041}\u{e000}\u{378}\u{301}".chars()) {
            assert!(!is_visible(ch), "{ch:?}");
        }
        assert!(is_visible_mark('\u{301}') && is_visible_mark('\u{93e}'));
        assert!(!is_visible_mark('\u{fe0f}') && !is_visible_mark('a'));
    }

    #[test]
    fn texts_that_differ_only_in_case_fold_to_the_same_text() {
        for (text, expected) in [
            ("Bella", "bella"),
            ("ΓΙΏΡΓΟΣ", "γιώργοσ"),
            ("γιώργος", "γιώργοσ"),
            ("STRASSE", "strasse"),
            ("straße", "strasse"),
            ("İ", "i\u{307}"),
            ("ı", "ı"),
            ("É", "e\u{301}"),
            ("Ꭰ", "ꭰ"),
        ] {
            assert_eq!(fold_case(text), fold_case(expected), "{text}");
        }
        assert_eq!(fold_case("γιώργος"), "γιώργοσ");
    }

    proptest! {
        #[test]
        fn a_folded_text_folds_to_itself(text in "\\PC{0,20}") {
            let folded = fold_case(&text);
            prop_assert_eq!(fold_case(&folded), folded);
        }

        #[test]
        fn case_does_not_change_the_folded_text(text in "\\PC{0,20}") {
            prop_assert_eq!(fold_case(&text.to_lowercase().to_uppercase()), fold_case(&text.to_uppercase()));
        }
    }
}
