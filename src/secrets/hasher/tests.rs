//! Hashing and verification with cheap parameters, and the vectors of other implementations.

use argon2::{Argon2, PasswordVerifier, password_hash::phc::PasswordHash};
use rand::{SeedableRng, rngs::StdRng};

use super::{
    PasswordUse::{LogIn, SignUp},
    *,
};

const CHEAP: Argon2Params = Argon2Params { memory_kib: 8, passes: 1, lanes: 1 };

fn hasher(password: Argon2Params) -> Hasher {
    Hasher::new(HashingSettings { key: Argon2Params::KEY, password, workers: 1, queue_length: 1 }).unwrap()
}

fn rng() -> StdRng {
    StdRng::seed_from_u64(7)
}

fn password(text: &str) -> Password {
    Password::parse(text).unwrap()
}

fn presented(text: &str) -> PresentedPassword {
    PresentedPassword::new(text)
}

#[tokio::test]
async fn a_hash_is_a_phc_string_that_another_verifier_accepts() {
    let hasher = hasher(Argon2Params::PASSWORD);
    for (phc, params) in [
        (hasher.hash_key(SecretString::from("random part"), &mut rng()).await.unwrap(), "m=64,t=1,p=1"),
        (hasher.hash_password(SignUp, password("random part"), &mut rng()).await.unwrap(), "m=19456,t=2,p=1"),
    ] {
        assert!(phc.starts_with(&format!("$argon2id$v=19${params}$")), "{phc}");
        let parsed = PasswordHash::new(&phc).unwrap();
        assert!(Argon2::default().verify_password(b"random part", &parsed).is_ok());
        assert!(Argon2::default().verify_password(b"random port", &parsed).is_err());
    }
}

#[tokio::test]
async fn two_hashes_of_one_secret_differ() {
    let hasher = hasher(CHEAP);
    let mut rng = rng();
    let first = hasher.hash_key(SecretString::from("same"), &mut rng).await.unwrap();
    let second = hasher.hash_key(SecretString::from("same"), &mut rng).await.unwrap();
    assert_ne!(first, second);
}

#[tokio::test]
async fn a_stored_hash_is_verified_with_its_own_parameters() {
    let stored = hasher(CHEAP).hash_password(SignUp, password("correct horse"), &mut rng()).await.unwrap();
    let current = hasher(Argon2Params { memory_kib: 16, ..CHEAP });
    let verified =
        async |text: &str| current.verify_password(LogIn, presented(text), Some(stored.clone())).await.unwrap();
    assert_eq!(verified("correct horse").await, Verification { matches: true, needs_rehash: true });
    assert_eq!(verified("correct house").await, Verification { matches: false, needs_rehash: true });
    let same = hasher(CHEAP).verify_password(LogIn, presented("correct horse"), Some(stored)).await.unwrap();
    assert_eq!(same, Verification { matches: true, needs_rehash: false });
}

/// The size of the scratch memory shows how much work was done.
#[tokio::test]
async fn a_wrong_password_for_a_cheap_hash_costs_as_much_as_one_without_a_hash() {
    let stored = hasher(CHEAP).hash_password(SignUp, password("correct horse"), &mut rng()).await.unwrap();
    let current = hasher(Argon2Params { memory_kib: 32, ..CHEAP });
    let used_kib = async |text: &str| {
        current.verify_password(LogIn, presented(text), Some(stored.clone())).await.unwrap();
        current.log_ins.pool.run(|memory| memory.len()).await.unwrap()
    };
    assert_eq!(used_kib("correct horse").await, 8);
    assert_eq!(used_kib("correct house").await, 32 - 8);
}

#[tokio::test]
async fn nothing_matches_a_missing_or_unsupported_hash() {
    let hasher = hasher(CHEAP);
    let valid = hasher.hash_key(SecretString::default(), &mut rng()).await.unwrap();
    for stored in ["", "$argon2id$", "$argon2id$v=19$m=4294967295,t=1,p=1$AAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA"] {
        assert!(!hasher.verify_key(SecretString::default(), Some(stored.to_owned())).await.unwrap(), "{stored}");
    }
    assert!(!hasher.verify_key(SecretString::default(), None).await.unwrap());
    assert!(!hasher.verify_password(LogIn, presented(""), Some(valid.clone())).await.unwrap().matches, "no password");
    for foreign in [valid.replace("$argon2id$", "$argon2i$"), valid.replace("$v=19$", "$v=16$")] {
        assert!(!hasher.verify_key(SecretString::default(), Some(foreign.clone())).await.unwrap(), "{foreign}");
    }
    assert!(hasher.verify_key(SecretString::default(), Some(valid)).await.unwrap());
}

async fn bcrypt_matches(hash: &str, text: &str) -> bool {
    hasher(CHEAP).verify_password(LogIn, presented(text), Some(hash.to_owned())).await.unwrap().matches
}

/// The vectors are those of jBCrypt.
#[tokio::test]
async fn a_bcrypt_hash_of_any_of_its_forms_is_verified() {
    let hash = "$2a$06$m0CrhHm10qJ3lXRY.5zDGO3rS2KdeeWLuGmsfGlMfOxih58VYVfxe";
    for form in ["$2a$", "$2b$", "$2y$"] {
        assert!(bcrypt_matches(&hash.replace("$2a$", form), "a").await, "{form}");
        assert!(!bcrypt_matches(&hash.replace("$2a$", form), "b").await, "{form}");
    }
    assert!(!bcrypt_matches(&hash.replace("$2a$", "$2x$"), "a").await);
    let of_empty = "$2a$06$DCq7YPn5Rq63x1Lad4cll.TV4S6ytwfsfvkgY8jIucDrjc8deX1s.";
    assert!(!bcrypt_matches(of_empty, "").await, "an empty password is the password of no one");
}

#[tokio::test]
async fn bcrypt_compares_the_first_72_bytes_as_they_were_sent() {
    let hash = |text: &str| bcrypt::hash_with_salt(text, 4, [7; 16]).unwrap().to_string();
    let long = "é".repeat(40);
    assert!(bcrypt_matches(&hash(&long), &long).await);
    assert!(bcrypt_matches(&hash(&long), &format!("{}other", &long[..72])).await);
    assert!(bcrypt_matches(&hash(&"x".repeat(100)), &"x".repeat(5_000)).await);
    assert!(!bcrypt_matches(&hash("cafe\u{301}"), "café").await, "not normalized");
    assert!(bcrypt_matches(&hash("a\0b"), "a\0b").await);
    assert!(!bcrypt_matches(&hash("a\0b"), "a").await);
}

#[tokio::test]
async fn a_short_password_that_bcrypt_accepted_is_rehashed_and_an_overlong_one_is_not() {
    let hasher = hasher(CHEAP);
    let stored = bcrypt::hash_with_salt("kitty", 4, [7; 16]).unwrap().to_string();
    let verified = hasher.verify_password(LogIn, presented("kitty"), Some(stored)).await.unwrap();
    assert_eq!(verified, Verification { matches: true, needs_rehash: true });
    let rehashed = hasher.rehash_password(LogIn, presented("kitty"), &mut rng()).await.unwrap();
    let verified = hasher.verify_password(LogIn, presented("kitty"), rehashed).await.unwrap();
    assert_eq!(verified, Verification { matches: true, needs_rehash: false });
    let overlong = presented(&"x".repeat(5_000));
    assert_eq!(hasher.rehash_password(LogIn, overlong, &mut rng()).await.unwrap(), None);
}
