//! The gateway role: phone accounts and their users.
