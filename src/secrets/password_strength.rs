//! Whether a password is easily guessed.

use zeroize::Zeroizing;
use zxcvbn::Score;

use crate::domain::Password;

/// Characters that are judged at a time. What zxcvbn needs grows with the third power of them: for a text made of nothing
/// but letters' look-alikes it is up to a second at its own limit of 100, and a tenth of that at 32.
const CHUNK_CHARS: usize = 32;

/// Whether a guesser who tries what people choose, the hints first, would get there within a million guesses
/// (zxcvbn's score below 2; Wheeler, USENIX Security 2016).
pub(super) fn is_guessable(password: &Password, user_inputs: &[String]) -> bool {
    // Cut as the password is, so that a long name is found in it piece by piece.
    let user_inputs: Vec<String> =
        user_inputs.iter().flat_map(|hint| pieces(hint)).map(|piece| piece.to_string()).collect();
    let user_inputs: Vec<&str> = user_inputs.iter().map(String::as_str).collect();
    // A password is no weaker than its strongest piece.
    pieces(password.expose()).iter().all(|piece| zxcvbn::zxcvbn(piece, &user_inputs).score() < Score::Two)
}

fn pieces(text: &str) -> Vec<Zeroizing<String>> {
    let mut letters = text.chars().peekable();
    let mut pieces = Vec::new();
    while letters.peek().is_some() {
        pieces.push(Zeroizing::new(letters.by_ref().take(CHUNK_CHARS).collect()));
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guessable(password: &str, user_inputs: &[&str]) -> bool {
        let user_inputs: Vec<String> = user_inputs.iter().map(|&hint| hint.to_owned()).collect();
        is_guessable(&Password::parse(password).unwrap(), &user_inputs)
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
    fn a_few_unrelated_words_are_not_and_neither_is_anything_that_holds_them() {
        assert!(!guessable(&format!("{}correct horse battery", "a".repeat(32)), &[]));
        for strong in
            ["correct horse battery", "winter2024!", "kJ8#mP2$", "Ömer trinkt Çay", &"tulip lamp 7 ".repeat(9)]
        {
            assert!(!guessable(strong, &[]), "{strong}");
        }
    }

    #[test]
    fn what_is_known_of_the_owner_is_guessed_first() {
        let user_inputs = ["Bella Weddings", "bella.rossi@example.com", "bella.rossi"];
        for own in ["Bella Weddings", "bella.rossi@example.com", "bella.rossi1"] {
            assert!(guessable(own, &user_inputs), "{own}");
        }
        assert!(!guessable("bella.rossi1", &[]));
        let long = "Bella Weddings Photography and Video of Lucca";
        assert!(guessable(long, &[long]), "also where it is longer than what is judged at a time");
        let with_more = format!("{}kJ8#mP2$vL9", &long[..32]);
        assert!(!guessable(&with_more, &[long]));
    }
}
