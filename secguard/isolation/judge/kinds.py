"""The kinds of findings in a word or two, English and Chinese, for cells of a matrix and lists of leaks."""

from collections.abc import Mapping

from secguard.report import Text

__all__ = ["kind_words", "result_words"]

_KINDS: Mapping[str, tuple[str, str]] = {
    "leak.open": ("open", "开放"),
    "leak.closed": ("reachable, closed port", "可达（端口关闭）"),
    "leak.one-way": ("one-way leak", "单向泄漏"),
    "leak.icmp": ("ICMP", "ICMP"),
    "leak.ipv6": ("IPv6 unfiltered", "IPv6 未过滤"),
    "leak.tunnel": ("tunnel", "隧道"),
    "leak.fragment": ("fragments", "分片"),
    "leak.source-port": ("trusted source port", "信任源端口"),
    "leak.translated": ("address translation", "地址转换"),
    "leak.published": ("published across the boundary", "端口映射越界"),
    "leak.relay": ("relay", "中继"),
    "leak.stray": ("arrives elsewhere", "到达他处"),
    "leak.return": ("answers on a one-way flow", "单向流有返回"),
    "leak.answered": ("answered where nobody listens", "无监听处有应答"),
    "leak.dns": ("data in DNS", "DNS 携带数据"),
    "leak.dscp": ("priority marks evade the filter", "DSCP 标记绕过过滤"),
    "leak.icmp-error": ("ICMP errors out of nowhere", "无关联的 ICMP 差错"),
    "leak.icmp-type": ("ICMP other than echo", "回显以外的 ICMP"),
    "leak.ip-option": ("IP options", "IP 选项"),
    "leak.ip-protocol": ("other IP protocols", "其他 IP 协议"),
    "leak.ipv6-ext": ("IPv6 extension headers", "IPv6 扩展头"),
    "leak.large": ("large packets", "大报文"),
    "leak.pinhole": ("way in behind outbound traffic", "出向流量打开入向通道"),
    "leak.quote": ("quoted in ICMP errors", "被 ICMP 差错引用"),
    "leak.sctp": ("SCTP", "SCTP"),
    "leak.source-route": ("source routes", "源路由"),
    "leak.spoof": ("spoofed sources", "伪造源地址"),
    "leak.tcp-flags": ("TCP without a connection", "无连接的 TCP"),
    "leak.ttl": ("TTL evades the filter", "TTL 绕过过滤"),
    "leak.unfiltered": ("unfiltered", "完全未过滤"),
    "flow.blocked": ("allowed flow blocked", "允许的业务被阻断"),
    "flow.unanswered": ("allowed flow unanswered", "允许的业务无应答"),
    "case.accepted": ("something answers in between", "中间设备应答"),
    "case.hint": ("hint without proof", "仅有线索"),
    "health.agent": ("agent silent", "探针无报告"),
    "health.drops": ("sensor lost frames", "监听丢帧"),
    "health.next-hop": ("next hop silent", "下一跳无应答"),
    "health.beacon": ("beacons lost", "信标丢失"),
    "health.egress": ("probes did not leave", "探测未发出"),
    "health.clock": ("clocks apart", "时钟不一致"),
    "health.canary": ("canaries lost", "金丝雀丢失"),
    "token.forged": ("forged tokens", "伪造令牌"),
    "token.foreign": ("tokens of another run", "其他批次的令牌"),
    "token.replayed": ("replayed tokens", "重放的令牌"),
}


def kind_words(kind: str) -> Text:
    """A finding's kind (its code without `isolation.`) in a word or two."""
    return Text(*_KINDS.get(kind, (kind, kind)))


_RESULTS: Mapping[str, tuple[str, str]] = {
    "open": ("open", "开放"),
    "closed": ("reached, closed", "到达，端口关闭"),
    "one-way": ("arrived, no answer", "到达，无返回"),
    "tunnel": ("arrived in a tunnel", "经隧道到达"),
    "fragment": ("arrived in fragments", "以分片到达"),
    "translated": ("arrived from another address", "以其他地址到达"),
    "relay": ("relayed", "被中继"),
    "stray": ("arrived elsewhere", "到达他处"),
    "filtered": ("filtered", "被过滤"),
    "rejected": ("rejected", "被拒绝"),
    "accepted": ("answered in between", "中间设备应答"),
    "answered": ("answered, nobody listened", "有应答，该处无监听"),
    "unheard": ("silence, nobody listened", "无应答，该处无监听"),
    "inconclusive": ("inconclusive", "无法判定"),
}


def result_words(result: str) -> Text:
    """A case's result in a word or two."""
    return Text(*_RESULTS.get(result, (result, result)))
