//! Attempts to enter an owner's password, and how wrong ones are counted: for each pair of e-mail address and client
//! address, so that a stranger locks out only himself.

use std::net::IpAddr;

use sha2::{Digest as _, Sha256};
use time::Duration;

use super::{
    email::Email,
    idempotency::Sha256Digest,
    password::PresentedPassword,
    validation::{InvalidValue, Reason},
};

/// Wrong attempts of a pair within [`ATTEMPT_WINDOW`] after which no further password is compared.
pub const MAX_WRONG_ATTEMPTS: i32 = 10;
/// How long wrong attempts count, from the first.
pub const ATTEMPT_WINDOW: Duration = Duration::minutes(15);

/// How long an attempt counts as pending. Comparing a password takes a fraction of this, its time in the queue
/// included; a longer one has lost its replica or its connection.
pub const PENDING_LIFETIME: Duration = Duration::minutes(1);

/// An e-mail address and a password to compare.
#[derive(Debug, Clone)]
pub struct LogIn {
    /// `None` stands for a text that is no address: it matches no owner, and is counted like every other wrong attempt.
    pub email: Option<Email>,
    pub password: PresentedPassword,
    pub pair: AttemptPair,
}

/// The pair for which attempts are counted. The database stores no more of it than these hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttemptPair {
    pub email_hash: Sha256Digest,
    /// Of the e-mail address and the client address.
    pub pair_hash: Sha256Digest,
}

/// The network address of an end user, as the caller sees it: 1–128 visible ASCII characters.
///
/// An IP address is counted in one form, and IPv6 by /64 network: one user has all addresses of such a network. Any
/// other text, such as a pseudonym that the caller computes, is counted as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientAddress(String);

impl LogIn {
    /// `email` and `password` are the texts that were entered, whether or not they can be an address and a password.
    pub fn new(email: &str, password: &str, client_address: Option<&ClientAddress>) -> Self {
        let parsed = Email::parse(email).ok();
        let email_hash = parsed.as_ref().map_or_else(|| hash(b"text", &[email]), email_hash);
        let pair_hash = match client_address {
            Some(ClientAddress(address)) => hash(&email_hash, &[address]),
            None => hash(&email_hash, &[]),
        };
        let password = PresentedPassword::new(password);
        Self { email: parsed, password, pair: AttemptPair { email_hash, pair_hash } }
    }
}

/// Returns the hash under which the attempts for an address are counted, whatever its spelling.
pub fn email_hash(email: &Email) -> Sha256Digest {
    hash(b"email", &[email.canonical()])
}

/// `domain` distinguishes texts of different kinds, and an absent text differs from an empty one.
fn hash(domain: &[u8], texts: &[&str]) -> Sha256Digest {
    let mut hash = Sha256::new();
    hash.update(domain);
    for text in texts {
        hash.update([0]);
        hash.update(text.as_bytes());
    }
    hash.finalize().into()
}

impl ClientAddress {
    const MAX_LENGTH: usize = 128;

    /// # Errors
    /// `MISSING_FIELD`, `TOO_LONG`, `BAD_FORMAT`.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        if text.is_empty() {
            return Err(InvalidValue::missing());
        }
        if text.len() > Self::MAX_LENGTH {
            return Err(InvalidValue::new(Reason::TooLong, "must have at most 128 characters"));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(InvalidValue::new(Reason::BadFormat, "must have visible ASCII characters only"));
        }
        Ok(Self(text.parse().map_or_else(|_not_an_ip| text.to_owned(), network)))
    }
}

/// Returns an IPv4 address, or the network of an IPv6 address.
fn network(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(email: &str, client_address: Option<&str>) -> AttemptPair {
        let client_address = client_address.map(|text| ClientAddress::parse(text).unwrap());
        LogIn::new(email, "", client_address.as_ref()).pair
    }

    #[test]
    fn a_client_address_has_1_to_128_visible_ascii_characters() {
        for (text, expected) in [
            ("203.0.113.7", None),
            ("2001:db8::1", None),
            ("203.0.113.7:54321", None),
            ("hmac:9f86d081", None),
            (&"a".repeat(128), None),
            ("", Some(Reason::MissingField)),
            (&"a".repeat(129), Some(Reason::TooLong)),
            (" 203.0.113.7", Some(Reason::BadFormat)),
            ("203.0.113.7\n", Some(Reason::BadFormat)),
            ("büro", Some(Reason::BadFormat)),
        ] {
            assert_eq!(ClientAddress::parse(text).err().map(|invalid| invalid.reason), expected, "{text:?}");
        }
    }

    #[test]
    fn every_spelling_of_an_ip_address_and_every_address_of_an_ipv6_network_is_one_client() {
        for (one, other, is_same) in [
            ("203.0.113.7", "::ffff:203.0.113.7", true),
            ("2001:db8:0:1::1", "2001:0DB8::1:ffff:0:0:1", true),
            ("2001:db8:0:1::1", "2001:db8:0:2::1", false),
            ("203.0.113.7", "203.0.113.8", false),
            ("203.0.113.7", "203.0.113.7:80", false),
        ] {
            let is_equal = pair("bella@example.com", Some(one)) == pair("bella@example.com", Some(other));
            assert_eq!(is_equal, is_same, "{one} {other}");
        }
    }

    #[test]
    fn attempts_are_counted_for_each_pair_whatever_the_spelling_of_the_address() {
        let bella = pair("Bella@Example.com ", Some("203.0.113.7"));
        assert_eq!(bella, pair("bella@example.com", Some("203.0.113.7")));
        assert_eq!(bella.email_hash, pair("bella@example.com", None).email_hash);
        assert_ne!(bella, pair("bella@example.com", None));
        assert_ne!(bella, pair("bella@example.com", Some("203.0.113.8")));
        assert_ne!(bella, pair("omer@example.com", Some("203.0.113.7")));
        assert_ne!(pair("bella", None), pair("omer", None));
        assert_ne!(pair("", None), pair("bella", None));
    }
}
