//! Estimates whether a password is easily guessed. It says nothing about the password's length or characters.

use zeroize::Zeroizing;
use zxcvbn::Score;

use crate::domain::Password;

/// Characters that are checked at a time. The time that zxcvbn needs grows with their third power: a text that consists
/// only of look-alikes of letters takes up to a second at its own limit of 100, and a tenth of that at 32.
const CHUNK_CHARS: usize = 32;

/// Whether an attacker who tries `user_inputs` and common passwords first needs at most a million guesses (zxcvbn's
/// score below 2; Wheeler, USENIX Security 2016).
pub(super) fn is_guessable(password: &Password, user_inputs: &[String]) -> bool {
    // Split like the password, so that each chunk of a long name is recognized in it.
    let user_inputs: Vec<String> =
        user_inputs.iter().flat_map(|input| chunks(input)).map(|chunk| chunk.to_string()).collect();
    let user_inputs: Vec<&str> = user_inputs.iter().map(String::as_str).collect();
    // A password is at least as strong as its strongest chunk.
    chunks(password.expose()).iter().all(|chunk| zxcvbn::zxcvbn(chunk, &user_inputs).score() < Score::Two)
}

fn chunks(text: &str) -> Vec<Zeroizing<String>> {
    let mut chars = text.chars().peekable();
    let mut chunks = Vec::new();
    while chars.peek().is_some() {
        chunks.push(Zeroizing::new(chars.by_ref().take(CHUNK_CHARS).collect()));
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guessable(password: &str, user_inputs: &[&str]) -> bool {
        let user_inputs: Vec<String> = user_inputs.iter().map(|&input| input.to_owned()).collect();
        is_guessable(&Password::parse(password).unwrap(), &user_inputs)
    }

    #[test]
    fn common_passwords_are_guessable() {
        for weak in
            ["password", "12345678", "qwertyuiop", "Passw0rd!", "aaaaaaaaaaaa", "abcabcabcabc", &"a".repeat(128)]
        {
            assert!(guessable(weak, &[]), "{weak}");
        }
    }

    #[test]
    fn unrelated_words_are_not_guessable_and_neither_is_a_password_that_contains_them() {
        assert!(!guessable(&format!("{}correct horse battery", "a".repeat(32)), &[]));
        for strong in
            ["correct horse battery", "winter2024!", "kJ8#mP2$", "Ömer trinkt Çay", &"tulip lamp 7 ".repeat(9)]
        {
            assert!(!guessable(strong, &[]), "{strong}");
        }
    }

    #[test]
    fn passwords_made_of_the_owners_name_or_address_are_guessable() {
        let user_inputs = ["Bella Weddings", "bella.rossi@example.com", "bella.rossi"];
        for own in ["Bella Weddings", "bella.rossi@example.com", "bella.rossi1"] {
            assert!(guessable(own, &user_inputs), "{own}");
        }
        assert!(!guessable("bella.rossi1", &[]));
        let long = "Bella Weddings Photography and Video of Lucca";
        assert!(guessable(long, &[long]), "also if it is longer than a chunk");
        let with_more = format!("{}kJ8#mP2$vL9", &long[..32]);
        assert!(!guessable(&with_more, &[long]));
    }
}
