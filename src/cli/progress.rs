//! The progress of a command with many items: a bar on a terminal, and a line for every fiftieth of the items
//! elsewhere.

use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Error, counted, output::print_message};

pub struct Progress {
    bar: ProgressBar,
    is_terminal: bool,
    /// What is done with the items, such as "processed".
    verb: &'static str,
    /// An item, such as "row".
    noun: &'static str,
}

impl Progress {
    pub fn start(verb: &'static str, noun: &'static str, total: u64, done: u64) -> Result<Self, Error> {
        let is_terminal = std::io::stderr().is_terminal();
        let target = if is_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let style = ProgressStyle::with_template("{bar:40} {pos}/{len} ({per_sec}, {eta} left)")?;
        let bar = ProgressBar::with_draw_target(Some(total), target).with_style(style);
        bar.set_position(done);
        bar.reset_eta();
        Ok(Self { bar, is_terminal, verb, noun })
    }

    pub fn step(&self) {
        self.bar.inc(1);
        let (position, total) = (self.bar.position(), self.bar.length().unwrap_or_default());
        let is_milestone = position % (total / 50).max(1) == 0;
        if !self.is_terminal && is_milestone {
            let (rate, left) = (self.bar.per_sec(), self.bar.eta().as_secs());
            let (verb, total) = (self.verb, counted(total, self.noun));
            print_message(format_args!("{verb} {position} of {total} ({rate:.0} per second, {left} s left)"));
        }
    }

    /// Prints a message above the bar.
    pub fn print(&self, message: impl std::fmt::Display) {
        self.bar.suspend(|| print_message(message));
    }

    /// Removes the bar, and returns how many items are done.
    pub fn finish(&self) -> u64 {
        self.bar.finish_and_clear();
        self.bar.position()
    }
}
