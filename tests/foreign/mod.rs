//! Other people's suites, clients, proxies, clocks and disks against the binary that ships, with the defaults it ships
//! with. `README.md` beside this file says what each judges, and how to run one alone.
//!
//! `make test` runs the short form of each; `make foreign` the whole, and prints what each has found.

mod autobahn;
mod balancers;
mod clients;
mod clocks;
mod disk;
mod document;
mod frames;
mod hands;
mod nats_cluster;
mod network;
mod newcomers;
mod prometheus;
mod storage;
mod stubborn;
mod tools;
