//! What is observed while a server is under attack, and what must hold.

use std::time::Duration;

use tokio::time::sleep;

use super::{
    attackers::Attack,
    other_callers::{Tally, call_for},
    running::CallEnds,
    target::{PROTOCOLS, Target},
};

/// How long the tests attack; `make check-all` attacks for longer.
const ATTACK_DURATION: Duration = Duration::from_secs(2);
/// The memory limit of a pod.
pub const POD_KIB: u64 = 256 * 1024;
/// How much an attack may add to a debug build.
const MAX_GROWTH_KIB: u64 = 100 * 1024;

#[derive(Debug)]
pub struct Observation {
    /// Resident memory before the attack.
    pub before_kib: u64,
    /// Peak of the resident memory during the attack.
    pub peak_kib: u64,
    /// The calls of the other callers.
    pub tally: Tally,
    /// How the attacker's own calls ended.
    pub ends: CallEnds,
}

/// Attacks the server while no other caller calls it, and returns the peak of its memory in KiB.
pub async fn peak_kib(target: &Target, attack: Attack) -> u64 {
    target.reset_peak();
    let mut attack = attack(target);
    attack.wait_until_in_position().await;
    sleep(ATTACK_DURATION).await;
    println!("{:?}", attack.stop().await);
    target.memory_kib("VmHWM")
}

/// Attacks the server for this time, while the other callers call it.
pub async fn observe(target: &Target, attack: Attack, duration: Duration) -> Observation {
    let before_kib = target.memory_kib("VmRSS");
    target.reset_peak();
    let mut attack = attack(target);
    attack.wait_until_in_position().await;
    let tally = Box::pin(call_for(target, duration)).await;
    let ends = attack.stop().await;
    Observation { before_kib, peak_kib: target.memory_kib("VmHWM"), tally, ends }
}

/// Asserts that the memory of the server stays bounded under this attack and that the other callers are served. Returns
/// how the attacker's calls ended.
pub async fn assert_withstands(target: &Target, attack: Attack) -> CallEnds {
    let observation = observe(target, attack, ATTACK_DURATION).await;
    println!("{observation:?}");
    let Observation { before_kib, peak_kib, tally, ends } = observation;
    assert!(peak_kib < POD_KIB, "{peak_kib} KiB");
    assert!(peak_kib < before_kib + MAX_GROWTH_KIB, "{before_kib} to {peak_kib} KiB");
    assert!(tally.is_good(), "{tally:?}");
    ends
}

/// As [`assert_withstands`], in plaintext and with TLS, and the server stops in an orderly way afterwards.
pub async fn assert_withstands_with_and_without_tls(attack: Attack) {
    for protocol in PROTOCOLS {
        println!("{protocol:?}");
        let target = Target::start(protocol).await;
        assert_withstands(&target, attack).await;
        target.stop();
    }
}
