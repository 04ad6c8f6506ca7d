//! Chooses the next call of a client.

use rand::{RngExt as _, rngs::StdRng};
use turnkey::grpc::pb::OwnerTokenPurpose;

use super::{Client, fresh, new_request_id};
use crate::{
    histories::history::{Call, ItemView},
    support::{owners::NEW_PASSWORD, requests::PASSWORD},
};

const PACKAGE_SLUGS: [&str; 4] = ["basic-package", "gold", "silver", "bronze"];
const SEGMENT_SLUGS: [&str; 2] = ["winter", "summer"];
/// Few, so that a password is often right.
const PASSWORDS: [&str; 3] = [PASSWORD, NEW_PASSWORD, "daisies behind a lamp"];

fn one_of<'a>(random: &mut StdRng, texts: &[&'a str]) -> &'a str {
    texts[random.random_range(0..texts.len())]
}

/// The addresses that a tenant's owners have.
pub(super) fn addresses(slug: &str) -> [String; 2] {
    [format!("{slug}@example.com"), format!("other-{slug}@example.com")]
}

impl Client {
    /// Every address with every password.
    pub(super) fn log_ins(&self) -> Vec<Call> {
        let addresses = addresses(&self.common.origin.slug);
        let log_in = |email: &String, password: &str| Call::VerifyPassword {
            email: email.clone(),
            password: password.to_owned(),
        };
        addresses.iter().flat_map(|email| PASSWORDS.iter().map(move |password| log_in(email, password))).collect()
    }

    pub(super) fn random_call(&mut self) -> Call {
        if self.known.is_purged && self.random.random_bool(0.4) {
            return Call::Create;
        }
        if self.known.is_deleted && self.random.random_bool(0.4) {
            return if self.can_be_purged() && self.random.random() { Call::Purge } else { Call::Undelete };
        }
        match self.random.random_range(0..40) {
            0..10 => self.call_about_tenant(),
            10..16 => self.call_about_key(),
            16..28 => self.call_about_owner(),
            28..38 => self.call_about_catalog(),
            38 => Call::ListKeys,
            _ => Call::GetTenant,
        }
    }

    fn can_be_purged(&self) -> bool {
        !self.common.is_damaged_at_times
    }

    fn call_about_tenant(&mut self) -> Call {
        let can_be_purged = self.can_be_purged();
        let random = &mut self.random;
        let etag = self.known.etag.clone().filter(|_| random.random());
        match random.random_range(0..12) {
            0..3 => Call::Rename { name: format!("Name {}", fresh()), etag },
            3 => Call::SetActive(false),
            4..6 => Call::SetActive(true),
            6 => Call::Delete { etag },
            7 => Call::Undelete,
            8 => Call::Create,
            9 if can_be_purged => Call::Purge,
            9 => Call::Damage,
            _ => Call::Repair,
        }
    }

    fn call_about_key(&mut self) -> Call {
        let random = &mut self.random;
        let known = self.known.keys.keys().nth(random.random_range(0..self.known.keys.len().max(1))).cloned();
        match (random.random_range(0..6), known) {
            (0..2, _) => Call::CreateKey { request_id: new_request_id(random) },
            (2, replaced) => {
                let replaced = replaced.filter(|_| random.random());
                Call::Rotate { request_id: new_request_id(random), replaced, at_once: random.random() }
            }
            (3, Some(public_key)) => Call::Revoke { public_key },
            (_, Some(public_key)) => Call::VerifyKey { public_key },
            _ => Call::ListKeys,
        }
    }

    fn call_about_owner(&mut self) -> Call {
        let random = &mut self.random;
        let addresses = addresses(&self.common.origin.slug);
        let email = match self.known.owner.clone() {
            Some(known) if random.random_bool(0.8) => known,
            _ => addresses[random.random_range(0..addresses.len())].clone(),
        };
        let current =
            if random.random_bool(0.7) { &self.known.password } else { one_of(random, &PASSWORDS) }.to_owned();
        let new = one_of(random, &PASSWORDS).to_owned();
        let purpose =
            if random.random_bool(0.7) { OwnerTokenPurpose::ResetPassword } else { OwnerTokenPurpose::VerifyEmail };
        if self.known.owner.is_none() && random.random() {
            return Call::SetOwner { email, password: Some(new) };
        }
        match (random.random_range(0..13), self.common.tokens.any(random)) {
            (0..2, _) => Call::SetOwner { email, password: Some(new).filter(|_| random.random()) },
            (2..5, _) | (5..10, None) => Call::CreateOwnerToken { email, purpose },
            (5..9, Some((OwnerTokenPurpose::ResetPassword, token))) => Call::ResetPassword { token, new_password: new },
            // Now and then with the token of a reset.
            (5..10, Some((_, token))) => Call::VerifyEmail { token },
            (10..12, _) => Call::ChangePassword { email, current, new },
            _ => Call::VerifyPassword { email, password: current },
        }
    }

    fn call_about_catalog(&mut self) -> Call {
        let random = &mut self.random;
        let (package, segment) = (one_of(random, &PACKAGE_SLUGS), one_of(random, &SEGMENT_SLUGS));
        let with_etag = random.random_bool(0.5);
        let etag = |known: Option<&ItemView>| known.filter(|_| with_etag).map(|known| known.etag.clone());
        let price = || i64::try_from(fresh()).unwrap();
        match random.random_range(0..12) {
            0..4 => {
                let etag = etag(self.known.packages.get(package));
                Call::UpsertPackages { items: vec![(package.to_owned(), price())], etag }
            }
            4 => {
                let items = PACKAGE_SLUGS.iter().map(|slug| ((*slug).to_owned(), price())).collect();
                Call::UpsertPackages { items, etag: None }
            }
            5..7 => match self.known.packages.get(package) {
                Some(known) => Call::DeletePackage { id: known.id.clone(), etag: etag(Some(known)) },
                None => Call::ListPackages,
            },
            7..9 => {
                let etag = etag(self.known.segments.get(segment));
                Call::UpsertSegment { slug: segment.to_owned(), name: format!("Segment {}", fresh()), etag }
            }
            9 => match self.known.segments.get(segment) {
                Some(known) => Call::DeleteSegment { id: known.id.clone(), etag: etag(Some(known)) },
                None => Call::ListSegments,
            },
            10 => Call::ListSegments,
            _ => Call::ListPackages,
        }
    }
}
