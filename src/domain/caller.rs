//! Who calls.

/// A caller's name. What one caller claims by a request id is nobody else's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    name: String,
}

impl Caller {
    /// Everyone, while callers need no credential.
    #[must_use]
    pub fn anonymous() -> Self {
        Self { name: "anonymous".to_owned() }
    }

    /// An import that works on the database itself.
    #[must_use]
    pub fn import() -> Self {
        Self { name: "import".to_owned() }
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}
