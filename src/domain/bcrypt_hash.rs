//! Password hashes of the platform's old database, which `turnkey adopt` brings in.

use bcrypt::HashParts;

use super::validation::{InvalidValue, Reason};

/// A bcrypt hash, `$2b$<cost>$<salt and hash>`. `$2a$` and `$2y$` are the same function in the implementations of
/// today.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BcryptHash(String);

impl BcryptHash {
    /// The highest cost, which takes about a second. The platform used 10 and 12.
    const MAX_COST: u32 = 14;
    const MIN_COST: u32 = 4;

    /// # Errors
    /// `MISSING_FIELD`; `BAD_FORMAT` for every other form, `$2x$` included; `OUT_OF_RANGE` for the cost.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        if text.is_empty() {
            return Err(InvalidValue::missing());
        }
        let is_known = ["$2a$", "$2b$", "$2y$"].iter().any(|prefix| text.starts_with(prefix));
        let parts = text.parse::<HashParts>().ok().filter(|_| is_known);
        let parts = parts.ok_or_else(|| {
            InvalidValue::new(Reason::BadFormat, "must be a bcrypt hash that begins with $2a$, $2b$ or $2y$")
        })?;
        if !(Self::MIN_COST..=Self::MAX_COST).contains(&parts.get_cost()) {
            return Err(InvalidValue::new(Reason::OutOfRange, "must be a bcrypt hash with a cost of 4 to 14"));
        }
        Ok(Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$2b$10$DCq7YPn5Rq63x1Lad4cll.TV4S6ytwfsfvkgY8jIucDrjc8deX1s.";

    #[test]
    fn the_three_equivalent_forms_of_bcrypt_are_accepted_up_to_a_cost_of_14() {
        let reason = |text: &str| BcryptHash::parse(text).err().map(|invalid| invalid.reason);
        for (text, expected) in [
            (HASH.to_owned(), None),
            (HASH.replace("$2b$", "$2a$"), None),
            (HASH.replace("$2b$", "$2y$"), None),
            (HASH.replace("$10$", "$14$"), None),
            (HASH.replace("$10$", "$04$"), None),
            (HASH.replace("$10$", "$03$"), Some(Reason::OutOfRange)),
            (HASH.replace("$10$", "$15$"), Some(Reason::OutOfRange)),
            (HASH.replace("$2b$", "$2x$"), Some(Reason::BadFormat)),
            (HASH.replace("$2b$", "$2$"), Some(Reason::BadFormat)),
            (HASH[..59].to_owned(), Some(Reason::BadFormat)),
            (format!("{HASH}0"), Some(Reason::BadFormat)),
            (HASH.replace("DC", "é"), Some(Reason::BadFormat)),
            ("$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2g".to_owned(), Some(Reason::BadFormat)),
            ("tulips under a lamp".to_owned(), Some(Reason::BadFormat)),
            (String::new(), Some(Reason::MissingField)),
        ] {
            assert_eq!(reason(&text), expected, "{text}");
        }
    }
}
