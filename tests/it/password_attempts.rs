//! Repeated wrong passwords: after ten of a pair of e-mail and client address, no password of the pair is compared for
//! 15 minutes. This shows nothing about the address, and locks out no other client.

use std::time::Duration as StdDuration;

use futures_util::future::join_all;
use time::Duration;
use tokio::task::JoinSet;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use turnkey::{
    config::ServerSettings,
    domain::{Argon2Params, KeyMode, Quotas},
    grpc::pb::{ChangePasswordRequest, Verdict},
    secrets::{Hasher, HashingSettings},
    service::{Clock, TenantService},
    store::Store,
};

use crate::support::{
    fixture::{Fixture, one_connection, settings},
    hash_counter::HashCounter,
    owners::{BELLA, NEW_PASSWORD, invalid, verify_password_request},
    requests::PASSWORD,
    responses::{reason, violations},
};

const WRONG: &str = "tulips under the lamp";
const UNKNOWN: &str = "unknown@example.com";

/// Settings with cheap passwords, so that many are compared quickly.
fn cheap_passwords() -> ServerSettings {
    ServerSettings { password_argon2: Argon2Params::KEY, ..settings() }
}

async fn enter_wrong_passwords(fixture: &Fixture, email: &str, client_address: Option<&str>, times: usize) {
    for _ in 0..times {
        assert_eq!(fixture.verify_password(email, WRONG, client_address).await.unwrap(), invalid());
    }
}

/// What a client sees of a refusal, besides the time to wait, and that time.
fn refusal(status: &Status) -> ((Code, String, String, String), StdDuration) {
    let pushback = status.metadata().get("grpc-retry-pushback-ms").unwrap().to_str().unwrap().to_owned();
    let delay = status.get_details_retry_info().unwrap().retry_delay.unwrap();
    ((status.code(), reason(status), status.message().to_owned(), pushback), delay)
}

fn assert_refused<T: std::fmt::Debug>(response: Result<T, Status>) {
    let (seen, delay) = refusal(&response.unwrap_err());
    let expected = (
        Code::ResourceExhausted,
        "TOO_MANY_ATTEMPTS".to_owned(),
        "too many wrong passwords".to_owned(),
        "-1".to_owned(),
    );
    assert_eq!(seen, expected);
    assert!(delay > StdDuration::ZERO && delay <= StdDuration::from_mins(15), "{delay:?}");
}

#[tokio::test]
async fn after_ten_wrong_passwords_the_right_one_is_refused_too_and_unknown_addresses_are_refused_alike() {
    let fixture = Fixture::with_settings(cheap_passwords()).await;
    fixture.sign_bella_up().await;
    for email in [BELLA, UNKNOWN, "", "no address"] {
        enter_wrong_passwords(&fixture, email, None, 10).await;
        for password in [PASSWORD, WRONG, "", "short"] {
            assert_refused(fixture.verify_password(email, password, None).await);
        }
    }
    assert_refused(fixture.verify_password(" BELLA@Example.COM", PASSWORD, None).await);
}

#[tokio::test]
async fn a_stranger_locks_out_only_himself() {
    let fixture = Fixture::with_settings(cheap_passwords()).await;
    let (tenant_id, _) = fixture.sign_bella_up().await;
    let stranger = Some("203.0.113.7");
    enter_wrong_passwords(&fixture, BELLA, stranger, 10).await;
    assert_refused(fixture.verify_password(BELLA, PASSWORD, stranger).await);
    assert_refused(fixture.verify_password(BELLA, PASSWORD, Some("::ffff:203.0.113.7")).await);
    for other in [None, Some("203.0.113.8"), Some("2001:db8::7")] {
        assert_eq!(fixture.verify_password(BELLA, PASSWORD, other).await.unwrap().1, tenant_id, "{other:?}");
    }
    assert_refused(fixture.verify_password(BELLA, PASSWORD, stranger).await);
    enter_wrong_passwords(&fixture, UNKNOWN, stranger, 1).await;
}

#[tokio::test]
async fn wrong_passwords_count_for_fifteen_minutes_from_the_first() {
    let fixture = Fixture::with_settings(cheap_passwords()).await;
    fixture.sign_bella_up().await;
    enter_wrong_passwords(&fixture, BELLA, None, 1).await;
    fixture.advance_clock(Duration::minutes(14));
    enter_wrong_passwords(&fixture, BELLA, None, 9).await;
    let (_, delay) = refusal(&fixture.verify_password(BELLA, PASSWORD, None).await.unwrap_err());
    assert!(delay <= StdDuration::from_mins(1), "{delay:?}");
    fixture.advance_clock(Duration::minutes(1));
    enter_wrong_passwords(&fixture, BELLA, None, 9).await;
    assert_eq!(fixture.verify_password(BELLA, PASSWORD, None).await.unwrap().0, Verdict::Valid);
}

#[tokio::test]
async fn a_replica_whose_clock_is_behind_asks_to_wait_at_most_fifteen_minutes() {
    let fixture = Fixture::with_settings(cheap_passwords()).await;
    enter_wrong_passwords(&fixture, UNKNOWN, None, 10).await;
    fixture.advance_clock(Duration::minutes(-1));
    assert_refused(fixture.verify_password(UNKNOWN, PASSWORD, None).await);
}

#[tokio::test]
async fn a_right_password_ends_the_count_of_its_pair_only() {
    let fixture = Fixture::with_settings(cheap_passwords()).await;
    fixture.sign_bella_up().await;
    let other = Some("203.0.113.8");
    enter_wrong_passwords(&fixture, BELLA, other, 9).await;
    for _ in 0..3 {
        enter_wrong_passwords(&fixture, BELLA, None, 9).await;
        assert_eq!(fixture.verify_password(BELLA, PASSWORD, None).await.unwrap().0, Verdict::Valid);
    }
    assert_eq!(fixture.attempts_where("true").await, 1);
    enter_wrong_passwords(&fixture, BELLA, other, 1).await;
    assert_refused(fixture.verify_password(BELLA, PASSWORD, other).await);
}

#[tokio::test]
async fn a_reset_ends_the_count_of_every_pair_of_the_address() {
    let fixture = Fixture::with_settings(cheap_passwords()).await;
    let (tenant_id, _) = fixture.sign_bella_up().await;
    let addresses = [None, Some("203.0.113.7"), Some("203.0.113.8")];
    for address in addresses {
        enter_wrong_passwords(&fixture, BELLA, address, 10).await;
    }
    enter_wrong_passwords(&fixture, UNKNOWN, None, 10).await;
    let token = fixture.reset_token(BELLA).await;
    fixture.reset_password(&token, NEW_PASSWORD).await.unwrap();
    for address in addresses {
        assert_eq!(fixture.verify_password(BELLA, NEW_PASSWORD, address).await.unwrap().1, tenant_id);
    }
    assert_refused(fixture.verify_password(UNKNOWN, PASSWORD, None).await);
}

#[tokio::test]
async fn verify_password_and_change_password_share_a_count() {
    let fixture = Fixture::with_settings(cheap_passwords()).await;
    fixture.sign_bella_up().await;
    for email in [BELLA, UNKNOWN] {
        enter_wrong_passwords(&fixture, email, None, 5).await;
        for _ in 0..5 {
            assert_eq!(fixture.change_password(email, WRONG, NEW_PASSWORD).await.unwrap(), invalid());
        }
        assert_refused(fixture.verify_password(email, PASSWORD, None).await);
        assert_refused(fixture.change_password(email, PASSWORD, NEW_PASSWORD).await);
        let weak = fixture.change_password(email, PASSWORD, "password").await.unwrap_err();
        assert_eq!(violations(&weak), [("new_password".to_owned(), "WEAK_PASSWORD".to_owned())]);
    }
}

/// Enters 50 passwords at once, half of them at each replica. Returns the number of each response.
async fn enter_at_once(replicas: [&Fixture; 2], email: &str, password: &str) -> [usize; 3] {
    let calls = (0..50).map(|number| replicas[number % 2].verify_password(email, password, None));
    let mut counts = [0; 3];
    for response in join_all(calls).await {
        match response {
            Ok((Verdict::Valid, _)) => counts[0] += 1,
            Ok(_) => counts[1] += 1,
            Err(status) => {
                assert_refused::<()>(Err(status));
                counts[2] += 1;
            }
        }
    }
    counts
}

#[tokio::test]
async fn of_fifty_wrong_passwords_at_once_ten_are_compared_and_fifty_right_ones_are_all_valid() {
    let first = Fixture::with_settings(cheap_passwords()).await;
    let second = Fixture::start_with(first.database.clone(), cheap_passwords()).await;
    first.sign_bella_up().await;
    let hashes = HashCounter::start();
    assert_eq!(enter_at_once([&first, &second], BELLA, PASSWORD).await, [50, 0, 0]);
    assert_eq!(hashes.take(), 50);
    for email in [BELLA, UNKNOWN] {
        assert_eq!(enter_at_once([&first, &second], email, WRONG).await, [0, 10, 40], "{email}");
        assert_eq!(hashes.take(), 10, "{email}");
    }
}

#[tokio::test]
async fn a_password_that_the_full_hashing_queue_refuses_is_no_attempt() {
    let costly = Argon2Params { passes: 16, ..Argon2Params::PASSWORD };
    let settings = ServerSettings { password_argon2: costly, hashing_queue: 1, ..settings() };
    let fixture = Fixture::with_settings(settings).await;
    let mut flood = JoinSet::new();
    for number in 0..32 {
        let mut client = fixture.provisioning.clone();
        let request = verify_password_request(&format!("{number}@example.com"), PASSWORD, None);
        flood.spawn(async move { client.verify_password(request).await.map(drop) });
    }
    let mut compared = 0;
    while let Some(response) = flood.join_next().await {
        match response.unwrap() {
            Ok(()) => compared += 1,
            Err(status) => assert_eq!(reason(&status), "OVERLOADED"),
        }
    }
    assert!((1..32).contains(&compared), "{compared}");
    assert_eq!(fixture.attempts_where("wrong = 1 AND pending = 0").await, compared);
    assert_eq!(fixture.attempts_where("true").await, compared);
}

/// As if the database had failed ten times between a comparison and its end.
#[tokio::test]
async fn attempts_whose_ends_were_lost_do_not_count_after_a_minute() {
    let fixture = Fixture::with_settings(cheap_passwords()).await;
    fixture.sign_bella_up().await;
    enter_wrong_passwords(&fixture, BELLA, None, 9).await;
    fixture.database.execute("UPDATE password_attempts SET pending = 10").await;
    fixture.advance_clock(Duration::minutes(1));
    enter_wrong_passwords(&fixture, BELLA, None, 1).await;
    assert_refused(fixture.verify_password(BELLA, PASSWORD, None).await);
    fixture.advance_clock(Duration::minutes(15));
    assert_eq!(fixture.verify_password(BELLA, PASSWORD, None).await.unwrap().0, Verdict::Valid);
}

#[tokio::test]
async fn known_and_unknown_addresses_cost_the_same_statements_and_hashes() {
    let (fixture, proxy) = Fixture::behind_proxy(one_connection()).await;
    let (tenant_id, _) = fixture.sign_bella_up().await;
    let ownerless = fixture.tenant("ownerless").await.id;
    fixture.set_owner(&ownerless, "new@example.com", None).await.unwrap();
    let hashes = HashCounter::start();
    let mut costs = Vec::new();
    // The first round prepares the statements. The tokens are the last one used, an unknown one and the wrong kind.
    for _ in 0..2 {
        costs.clear();
        let token = fixture.reset_token(BELLA).await;
        let verification_token = fixture.verification_token(BELLA).await;
        fixture.reset_password(&token, NEW_PASSWORD).await.unwrap();
        assert_eq!(fixture.verify_email(&verification_token).await.1, tenant_id);
        for email in [BELLA, UNKNOWN, "new@example.com", "no address"] {
            let before = proxy.round_trips();
            hashes.take();
            fixture.verify_password(email, WRONG, None).await.unwrap();
            let (verified, verify_hashes) = (proxy.round_trips(), hashes.take());
            fixture.change_password(email, WRONG, NEW_PASSWORD).await.unwrap();
            let (changed, change_hashes) = (proxy.round_trips(), hashes.take());
            fixture.reset_token(email).await;
            costs.push([verified - before, changed - verified, proxy.round_trips() - changed]);
            assert_eq!((verify_hashes, change_hashes), (1, 2), "{email}");
        }
        for token in [token.as_str(), "own_unknown", &verification_token] {
            let before = proxy.round_trips();
            hashes.take();
            assert_eq!(fixture.reset_password(token, PASSWORD).await.unwrap(), invalid());
            assert_eq!((proxy.round_trips() - before, hashes.take()), (1, 2), "{token}");
        }
    }
    assert_eq!(costs, [[2, 2, 1]; 4]);
}

#[tokio::test]
async fn a_client_address_that_is_none_is_rejected_with_the_other_violations() {
    let fixture = Fixture::start().await;
    for (address, expected) in [("", "MISSING_FIELD"), ("a b", "BAD_FORMAT"), (&"1".repeat(129), "TOO_LONG")] {
        let error = fixture.verify_password(BELLA, PASSWORD, Some(address)).await.unwrap_err();
        assert_eq!(violations(&error), [("client_address".to_owned(), expected.to_owned())]);
        let request = ChangePasswordRequest {
            email: BELLA.to_owned(),
            current_password: PASSWORD.to_owned(),
            new_password: "password".to_owned(),
            client_address: Some(address.to_owned()),
        };
        let error = fixture.provisioning.clone().change_password(request).await.unwrap_err();
        let expected = [("client_address", expected), ("new_password", "WEAK_PASSWORD")];
        assert_eq!(violations(&error), expected.map(|(field, reason)| (field.to_owned(), reason.to_owned())));
    }
    assert_eq!(fixture.attempts_where("true").await, 0);
}

#[tokio::test]
async fn pairs_whose_window_is_over_are_deleted_by_one_replica_at_a_time() {
    let fixture = Fixture::start().await;
    let superuser = fixture.superuser_pool().await;
    sqlx::query(
        "INSERT INTO password_attempts (email_hash, pair_hash, wrong, pending, started_at, last_attempt_at)
         SELECT sha256('x'), sha256(number::text::bytea), 1, 0, now(), now() FROM generate_series(1, 2500) AS number",
    )
    .execute(&superuser)
    .await
    .unwrap();
    let clean_up = async |after: Duration| {
        let key = Argon2Params::KEY;
        let hashing = HashingSettings { key, password: key, workers: 1, queue_length: 1 };
        let clock = Clock::new(move || Clock::system().now() + after);
        let store = Store::new(fixture.database.server.clone().into(), 1);
        let service = TenantService::new(store, Hasher::new(hashing).unwrap(), KeyMode::Live, clock, Quotas::DEFAULT);
        service.delete_expired_password_attempts().await.unwrap();
        fixture.attempts_where("true").await
    };
    assert_eq!(clean_up(Duration::minutes(14)).await, 2_500);
    let mut other = superuser.begin().await.unwrap();
    sqlx::query("SELECT pg_advisory_xact_lock(x'617474656d7074'::bigint)").execute(&mut *other).await.unwrap();
    assert_eq!(clean_up(Duration::minutes(16)).await, 2_500);
    other.rollback().await.unwrap();
    assert_eq!(clean_up(Duration::minutes(16)).await, 0);
}
