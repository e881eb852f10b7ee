//! The binary as a user runs it: commands, exit codes, first start, faults in one line, a way out in time.

mod commands;
mod faults;
mod node;
mod program;
