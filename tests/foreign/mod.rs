//! Third-party suites, clients, proxies, clocks and disks with the `tickwire` binary and its default configuration.
//! `README.md` in this folder describes what each one checks, and how to run a single one.
//!
//! `make test` runs the short form of each. `make foreign` runs the full form, and prints the results.

mod autobahn;
mod balancers;
mod clients;
mod clocks;
mod demo_page;
mod disk;
mod document;
mod examples;
mod frames;
mod hands;
mod helm;
mod make_secrets;
mod monitoring;
mod nats_cluster;
mod network;
mod newcomers;
mod prometheus;
mod recipes;
mod scale;
mod storage;
mod stubborn;
mod systemd;
mod terminal;
mod tools;
