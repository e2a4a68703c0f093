//! Channels: messages through memory that the processes share.
#![allow(dead_code, reason = "the patterns, which use it, are not public yet")]

mod service;
