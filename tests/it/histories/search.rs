//! Searches an order of the calls of one tenant that explains every response: linearizability, by the search of Wing
//! and Gong ("Testing and verifying concurrent objects", 1993) with the memory of Lowe ("Testing for linearizability",
//! 2017), as Porcupine does it.
//!
//! The events of the tenant bound the search: a call that changes the tenant can be next only if the next event is its
//! own. So an order that is found also has one event for each change, in that order, and no other. A call without a
//! response took effect if it has an event, and otherwise not. The few that leave no event may take effect at any time,
//! or never.

use std::{collections::HashSet, fmt};

use super::{
    history::{Operation, Outcome},
    model::{Change, Origin, State},
};

/// Upper bound of the steps of a search, which then ends as if there were no order. Far more than any history needs that
/// has one.
const MAX_STEPS: usize = 2_000_000;

/// A history that no order explains, of those that were tried.
pub struct Violation {
    pub has_tried_all: bool,
    /// The calls in the longest order that was found.
    explained: Vec<Operation>,
    /// The calls that could not follow, of all orders the fewest.
    left: Vec<Operation>,
    next_change: Option<Change>,
}

/// Sorted indices of the calls that are in the order, the number of events used, and the state.
type Seen = HashSet<(Vec<u64>, usize, State)>;

struct Search<'a> {
    origin: &'a Origin,
    operations: &'a [Operation],
    changes: &'a [Change],
    seen: Seen,
    steps: usize,
    /// The longest order so far, and the number of its events.
    longest: (Vec<usize>, usize),
}

/// Checks the history of a tenant whose events are these.
pub fn check(origin: &Origin, operations: &[Operation], changes: &[Change]) -> Result<(), Box<Violation>> {
    let mut operations = operations.to_vec();
    operations.sort_by_key(|operation| operation.invoked);
    let mut search =
        Search { origin, operations: &operations, changes, seen: Seen::new(), steps: 0, longest: (Vec::new(), 0) };
    if search.extend(&mut Vec::new(), &mut vec![false; operations.len()], 0, &State::default()) {
        return Ok(());
    }
    let (order, changes_used) = search.longest;
    let is_known = |operation: &&Operation| operation.outcome != Outcome::Unknown;
    let left = (0..operations.len()).filter(|index| !order.contains(index)).map(|index| &operations[index]);
    Err(Box::new(Violation {
        has_tried_all: search.steps < MAX_STEPS,
        left: left.filter(is_known).cloned().collect(),
        explained: order.iter().map(|&index| operations[index].clone()).collect(),
        next_change: changes.get(changes_used).cloned(),
    }))
}

impl Search<'_> {
    /// Extends the order to all calls with a response and all events. Returns false if there is no such order.
    fn extend(&mut self, order: &mut Vec<usize>, is_used: &mut [bool], changes: usize, state: &State) -> bool {
        if (changes, order.len()) > (self.longest.1, self.longest.0.len()) {
            self.longest = (order.clone(), changes);
        }
        // A read or a refusal that is explained, and from which nothing is learned, can be next in every order.
        let (mut changes, before) = (changes, order.len());
        while let Some(index) =
            self.candidates(is_used).into_iter().find(|&index| self.is_plain_read(index, state, changes))
        {
            order.push(index);
            is_used[index] = true;
        }
        let is_found = self.is_complete(is_used, changes) || self.extend_by_one(order, is_used, &mut changes, state);
        if !is_found {
            for index in order.drain(before..) {
                is_used[index] = false;
            }
        }
        is_found
    }

    fn extend_by_one(
        &mut self,
        order: &mut Vec<usize>,
        is_used: &mut [bool],
        changes: &mut usize,
        state: &State,
    ) -> bool {
        if self.steps == MAX_STEPS {
            return false;
        }
        self.steps += 1;
        let mut used: Vec<u64> = vec![0; is_used.len().div_ceil(64)];
        for index in (0..is_used.len()).filter(|&index| is_used[index]) {
            used[index / 64] |= 1 << (index % 64);
        }
        if !self.seen.insert((used, *changes, state.clone())) {
            return false;
        }
        let (lost, mut candidates): (Vec<_>, Vec<_>) =
            self.candidates(is_used).into_iter().partition(|&index| self.is_lost_and_silent(index));
        // Few of them matter, and any may be next.
        candidates.extend(lost);
        for index in candidates {
            let operation = &self.operations[index];
            let may_change = self.changes.get(*changes).is_some_and(|change| operation.call.may_leave(change));
            if operation.outcome == Outcome::Unknown && !may_change && !operation.call.is_silent() {
                continue;
            }
            let Some((next, count)) = state.apply(self.origin, operation, &self.changes[*changes..]) else { continue };
            if operation.outcome == Outcome::Unknown && count == 0 && next == *state {
                continue;
            }
            order.push(index);
            is_used[index] = true;
            if self.extend(order, is_used, *changes + count, &next) {
                return true;
            }
            order.pop();
            is_used[index] = false;
        }
        false
    }

    /// The calls that can be next: those that began before any other had returned. A call without a response can be
    /// next at any time; of several that are equal, the first stands for all.
    fn candidates(&self, is_used: &[bool]) -> Vec<usize> {
        let left = || (0..self.operations.len()).filter(|&index| !is_used[index]);
        let first_return = left()
            .filter(|&index| self.operations[index].outcome != Outcome::Unknown)
            .map(|index| self.operations[index].returned)
            .min()
            .unwrap_or(u64::MAX);
        let mut candidates: Vec<usize> = Vec::new();
        for index in left().filter(|&index| self.operations[index].invoked < first_return) {
            if !candidates.iter().any(|&earlier| self.are_lost_and_equal(earlier, index)) {
                candidates.push(index);
            }
        }
        candidates
    }

    fn are_lost_and_equal(&self, first: usize, second: usize) -> bool {
        let [first, second] = [first, second].map(|index| &self.operations[index]);
        first.outcome == Outcome::Unknown && second.outcome == Outcome::Unknown && first.call == second.call
    }

    fn is_lost_and_silent(&self, index: usize) -> bool {
        let Operation { call, outcome, .. } = &self.operations[index];
        *outcome == Outcome::Unknown && call.is_silent()
    }

    /// Not a change that has no effect in this state: it may have one in a later state, with an event of its own.
    fn is_plain_read(&self, index: usize, state: &State, changes: usize) -> bool {
        let operation = &self.operations[index];
        let is_read = operation.call.is_read() && operation.outcome != Outcome::Unknown;
        (is_read || matches!(operation.outcome, Outcome::Refused(_)))
            && state
                .apply(self.origin, operation, &self.changes[changes..])
                .is_some_and(|next| next == (state.clone(), 0))
    }

    fn is_complete(&self, is_used: &[bool], changes: usize) -> bool {
        let is_explained =
            |(operation, is_used): (&Operation, &bool)| *is_used || operation.outcome == Outcome::Unknown;
        changes == self.changes.len() && self.operations.iter().zip(is_used).all(is_explained)
    }
}

impl fmt::Debug for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, operations: &[Operation]| {
            operations.iter().try_for_each(|Operation { call, outcome, invoked, returned, .. }| {
                writeln!(f, "  {invoked}–{returned} {call:?} → {outcome:?}")
            })
        };
        let tried = if self.has_tried_all { "no order explains" } else { "of many orders, none explains" };
        writeln!(f, "{tried} the history. The longest order:")?;
        list(f, &self.explained)?;
        writeln!(f, "the next event: {:?}\nnot explained:", self.next_change)?;
        list(f, &self.left)
    }
}
