//! Who makes a change, which each of its events names.

use std::{borrow::Cow, num::NonZeroU128};

use super::caller::Caller;

/// The caller of a change and the trace to which the call belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    pub caller: Caller,
    /// `None` for commands.
    pub trace_id: Option<NonZeroU128>,
}

impl Actor {
    /// A command that changes the database directly, without a server.
    pub const fn command(caller: Caller) -> Self {
        Self { caller, trace_id: None }
    }

    /// Returns the name of the caller in events: that of a service, `tenant:` and the public key, `anonymous`, or `cli`
    /// for every command.
    pub fn event_caller(&self) -> Cow<'_, str> {
        match self.caller.presented_key() {
            Some(key) => Cow::Owned(format!("tenant:{}", key.public_key.as_str())),
            None if **self.caller.name() == *Caller::IMPORT => Cow::Borrowed(Caller::CLI),
            None => Cow::Borrowed(self.caller.name()),
        }
    }

    /// Returns the id of the trace in its text form: 32 hexadecimal digits (<https://www.w3.org/TR/trace-context/>).
    pub fn trace_id(&self) -> Option<String> {
        self.trace_id.map(|id| format!("{id:032x}"))
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::{ApiKeyScope, PublicKey, TenantId, caller::PresentedKey};

    #[test]
    fn events_name_the_service_the_key_of_the_tenant_or_the_command_line() {
        let public_key = PublicKey::parse("pk_live_bella_0123456789abcdef").unwrap();
        let key =
            PresentedKey { tenant_id: TenantId::from_uuid(Uuid::nil()), public_key, scope: ApiKeyScope::default() };
        for (caller, expected) in [
            (Caller::service("booking", &[], None), "booking"),
            (Caller::tenant_key(key), "tenant:pk_live_bella_0123456789abcdef"),
            (Caller::anonymous(), "anonymous"),
            (Caller::import(), "cli"),
            (Caller::cli(), "cli"),
        ] {
            assert_eq!(Actor::command(caller).event_caller(), expected);
        }
    }
}
