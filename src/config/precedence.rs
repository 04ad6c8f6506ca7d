//! A flag wins over the environment, also over the variable of another setting that decides the same thing.

use clap::{ArgMatches, Args, Command, Error, FromArgMatches, Id, parser::ValueSource};

/// Settings that decide the same thing.
pub trait Alternatives {
    /// Pairs of arguments. If the first one is given as a flag, a value of the second from the environment is ignored.
    const FLAG_OVERRIDES: &[(&str, &str)];
}

/// Arguments with [`Alternatives`]. clap knows the source of a value only until the arguments are filled.
#[derive(Clone)]
pub struct FlagsFirst<A>(pub A);

impl<A: Args> Args for FlagsFirst<A>
where
    Self: FromArgMatches,
{
    fn augment_args(command: Command) -> Command {
        A::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        A::augment_args_for_update(command)
    }

    fn group_id() -> Option<Id> {
        A::group_id()
    }
}

impl<A: FromArgMatches + Alternatives> FromArgMatches for FlagsFirst<A> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        Self::from_arg_matches_mut(&mut matches.clone())
    }

    fn from_arg_matches_mut(matches: &mut ArgMatches) -> Result<Self, Error> {
        drop_overridden(matches, A::FLAG_OVERRIDES);
        A::from_arg_matches_mut(matches).map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        self.update_from_arg_matches_mut(&mut matches.clone())
    }

    fn update_from_arg_matches_mut(&mut self, matches: &mut ArgMatches) -> Result<(), Error> {
        drop_overridden(matches, A::FLAG_OVERRIDES);
        self.0.update_from_arg_matches_mut(matches)
    }
}

fn drop_overridden(matches: &mut ArgMatches, overrides: &[(&str, &str)]) {
    for (flag, other) in overrides {
        let is_overridden = matches.value_source(flag) == Some(ValueSource::CommandLine)
            && matches.value_source(other) == Some(ValueSource::EnvVariable);
        if is_overridden {
            // Fails only for an argument that does not exist.
            let _ = matches.try_clear_id(other);
        }
    }
}
