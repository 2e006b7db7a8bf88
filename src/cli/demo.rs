//! `causeway demo`: a throw-away cluster, the proxy before it, and a table that shows both at work.

pub mod cluster;
