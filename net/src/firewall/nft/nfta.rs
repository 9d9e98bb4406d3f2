//! The numbers of attributes, as `linux/netfilter/nf_tables.h` has them, without the `NFTA_` before each name. How a field of a
//! packet is loaded stands with the fields.

pub(super) const LIST_ELEM: u16 = 1;

pub(super) const TABLE_NAME: u16 = 1;
pub(super) const TABLE_USERDATA: u16 = 6;

pub(super) const CHAIN_TABLE: u16 = 1;
pub(super) const CHAIN_NAME: u16 = 3;
pub(super) const CHAIN_HOOK: u16 = 4;
pub(super) const CHAIN_POLICY: u16 = 5;
pub(super) const CHAIN_TYPE: u16 = 7;

pub(super) const HOOK_HOOKNUM: u16 = 1;
pub(super) const HOOK_PRIORITY: u16 = 2;

pub(super) const RULE_TABLE: u16 = 1;
pub(super) const RULE_CHAIN: u16 = 2;
pub(super) const RULE_HANDLE: u16 = 3;
pub(super) const RULE_EXPRESSIONS: u16 = 4;
pub(super) const RULE_USERDATA: u16 = 7;

pub(super) const EXPR_NAME: u16 = 1;
pub(super) const EXPR_DATA: u16 = 2;

pub(super) const DATA_VALUE: u16 = 1;
pub(super) const DATA_VERDICT: u16 = 2;

pub(super) const VERDICT_CODE: u16 = 1;
pub(super) const VERDICT_CHAIN: u16 = 2;

pub(super) const IMMEDIATE_DREG: u16 = 1;
pub(super) const IMMEDIATE_DATA: u16 = 2;

pub(super) const META_KEY: u16 = 2;

pub(super) const CMP_SREG: u16 = 1;
pub(super) const CMP_OP: u16 = 2;
pub(super) const CMP_DATA: u16 = 3;

pub(super) const LOOKUP_SET: u16 = 1;
pub(super) const LOOKUP_SREG: u16 = 2;
pub(super) const LOOKUP_DREG: u16 = 3;
pub(super) const LOOKUP_FLAGS: u16 = 5;

pub(super) const BITWISE_SREG: u16 = 1;
pub(super) const BITWISE_DREG: u16 = 2;
pub(super) const BITWISE_LEN: u16 = 3;
pub(super) const BITWISE_MASK: u16 = 4;
pub(super) const BITWISE_XOR: u16 = 5;

pub(super) const DYNSET_SET_NAME: u16 = 1;
pub(super) const DYNSET_OP: u16 = 3;
pub(super) const DYNSET_SREG_KEY: u16 = 4;

pub(super) const NAT_TYPE: u16 = 1;
pub(super) const NAT_FAMILY: u16 = 2;
pub(super) const NAT_REG_ADDR_MIN: u16 = 3;
pub(super) const NAT_REG_PROTO_MIN: u16 = 5;

pub(super) const SET_TABLE: u16 = 1;
pub(super) const SET_NAME: u16 = 2;
pub(super) const SET_FLAGS: u16 = 3;
pub(super) const SET_KEY_TYPE: u16 = 4;
pub(super) const SET_KEY_LEN: u16 = 5;
pub(super) const SET_DATA_TYPE: u16 = 6;
pub(super) const SET_DATA_LEN: u16 = 7;
pub(super) const SET_DESC: u16 = 9;
pub(super) const SET_ID: u16 = 10;
pub(super) const SET_TIMEOUT: u16 = 11;
pub(super) const SET_USERDATA: u16 = 13;

pub(super) const SET_DESC_SIZE: u16 = 1;

pub(super) const SET_ELEM_LIST_TABLE: u16 = 1;
pub(super) const SET_ELEM_LIST_SET: u16 = 2;
pub(super) const SET_ELEM_LIST_ELEMENTS: u16 = 3;

pub(super) const SET_ELEM_KEY: u16 = 1;
pub(super) const SET_ELEM_DATA: u16 = 2;
pub(super) const SET_ELEM_USERDATA: u16 = 6;
