//! Which of our addresses to publish.
