//! The subjects of the reports of nodes. The last token names the node that answers. A gateway with a user of its own
//! may publish only those that end with its name, so it cannot answer for another node.

use super::{NODES, is_token, parse_ask};

/// The answer of one node to one question of one start of another node.
pub fn node_report(asker: &str, nonce: &str, ask: u64, node: &str) -> String {
    format!("{NODES}.{asker}.{nonce}.{ask}.{node}")
}

/// The answers of all nodes to one question of one start of a node.
pub fn node_reports(asker: &str, nonce: &str, ask: u64) -> String {
    node_report(asker, nonce, ask, "*")
}

/// The node that answers, in the subject of an answer.
pub fn parse_node_report(subject: &str) -> Option<&str> {
    let (question, node) = subject.rsplit_once('.')?;
    parse_ask(question, "tw.nodes.")?;
    is_token(node).then_some(node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subject_of_a_report_names_its_sender() {
        let subject = node_report("r-1", "a1b2", 17, "gw-1");
        assert_eq!((subject.as_str(), parse_node_report(&subject)), ("tw.nodes.r-1.a1b2.17.gw-1", Some("gw-1")));
        assert_eq!(node_reports("r-1", "a1b2", 17), "tw.nodes.r-1.a1b2.17.*");
        for odd in ["tw.nodes", "tw.nodes.r-1.a1b2.17", "tw.nodes.r-1.a1b2.x.gw-1", "tw.nodes.r-1.a1b2.17.*"] {
            assert_eq!(parse_node_report(odd), None, "{odd}");
        }
    }
}
