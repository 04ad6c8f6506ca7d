//! Whether a password is easily guessed.

use zeroize::Zeroizing;
use zxcvbn::Score;

use crate::domain::Password;

/// Characters that are judged. What zxcvbn needs grows with the third power of them, and for a text made of nothing but
/// letters' look-alikes up to a second at its own limit of 100; by 32 nobody's good password is taken for a weak one.
const JUDGED: usize = 32;

/// Whether a guesser who tries what people choose, the hints first, would get there within a million guesses
/// (zxcvbn's score below 2; Wheeler, USENIX Security 2016).
pub(super) fn is_guessable(password: &Password, hints: &[String]) -> bool {
    let judged: Zeroizing<String> = Zeroizing::new(password.expose().chars().take(JUDGED).collect());
    // A hint that is longer than what is judged has to be found by its start.
    let hints: Vec<String> = hints.iter().map(|hint| hint.chars().take(JUDGED).collect()).collect();
    let hints: Vec<&str> = hints.iter().map(String::as_str).collect();
    zxcvbn::zxcvbn(&judged, &hints).score() < Score::Two
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guessable(password: &str, hints: &[&str]) -> bool {
        let hints: Vec<String> = hints.iter().map(|&hint| hint.to_owned()).collect();
        is_guessable(&Password::parse(password).unwrap(), &hints)
    }

    #[test]
    fn what_everybody_chooses_is_guessable() {
        for weak in
            ["password", "12345678", "qwertyuiop", "Passw0rd!", "aaaaaaaaaaaa", "abcabcabcabc", &"a".repeat(128)]
        {
            assert!(guessable(weak, &[]), "{weak}");
        }
    }

    #[test]
    fn a_few_unrelated_words_are_not() {
        for strong in
            ["correct horse battery", "winter2024!", "kJ8#mP2$", "Ömer trinkt Çay", &"tulip lamp 7 ".repeat(9)]
        {
            assert!(!guessable(strong, &[]), "{strong}");
        }
    }

    #[test]
    fn what_is_known_of_the_owner_is_guessed_first() {
        let hints = ["Bella Weddings", "bella.rossi@example.com", "bella.rossi"];
        for own in ["Bella Weddings", "bella.rossi@example.com", "bella.rossi1"] {
            assert!(guessable(own, &hints), "{own}");
        }
        assert!(!guessable("bella.rossi1", &[]));
        let long = "Bella Weddings Photography and Video of Lucca";
        assert!(guessable(long, &[long]), "also where it is longer than what is judged");
    }
}
