"""What ``bundle.pyz`` says, in English and Chinese; the details of an error stay English, as its log and tools are."""

# ruff: noqa: RUF001 - Chinese has its own punctuation
from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pipeline.core import errors
from pipeline.core.console import DEFECT, INTERRUPTED

if TYPE_CHECKING:
    from collections.abc import Mapping

LANGUAGES = ("en", "zh")
VARIABLES = ("LC_ALL", "LC_MESSAGES", "LANG")  # the first that is set counts: locale(7)

# Each key: English, Chinese. What stands in {braces} is filled in.
TEXTS = {
    # --- help
    "program": (
        "Checks, unpacks and syncs a bundle of container images.\nNeeds Python 3.6 or later, and nothing installed.",
        "校验、展开容器镜像包，并同步到现场镜像仓库。\n只需 Python 3.6 或更高版本，无需安装任何软件。",
    ),
    "list": ("show what is in the bundle", "显示镜像包的内容"),
    "verify": (
        "check everything offline: volumes, signature, every blob",
        "离线校验全部内容：分卷、签名、每一个数据块",
    ),
    "expand": ("unpack the bundle into an OCI layout directory", "把镜像包展开为 OCI layout 目录"),
    "sync": ("send the images into the site's registry", "把镜像同步到现场镜像仓库"),
    "usage": ("usage: ", "用法："),
    "commands": ("commands", "命令"),
    "options": ("options", "选项"),
    "arguments": ("arguments", "参数"),
    "example": ("example:", "示例："),
    "help": ("show this help and exit", "显示本帮助并退出"),
    "lang": ("language of messages (default: that of the locale)", "消息的语言（默认：按系统语言环境）"),
    "bundle": (
        "directory of the bundle, or any of its volumes (default: the directory that this program lies in)",
        "镜像包所在目录，或其中任意一个分卷（默认：本程序所在目录）",
    ),
    "key": ("public key (PEM) that must have signed the bundle", "公钥文件（PEM）；镜像包必须由对应私钥签名"),
    "expand.to": (
        "the directory; what is there already is kept, a second run goes on",
        "目标目录；已有内容会保留，再次运行时接着做",
    ),
    "sync.to": (
        "the registry, and what is put before the name of each image",
        "目标镜像仓库，以及加在每个镜像名之前的前缀",
    ),
    "ca": (
        "PEM file of the authority that signed the registry's certificate (default: the system's authorities)",
        "签发仓库证书的 CA 证书文件（PEM，默认：系统信任的 CA）",
    ),
    "auth-file": (
        "config.json of docker or auth.json of podman (default: where these look)",
        "docker 的 config.json 或 podman 的 auth.json（默认：二者的标准位置）",
    ),
    "insecure": ("believe any certificate", "不校验服务器证书"),
    "plain-http": ("speak to the registry without TLS", "以不加密的 HTTP 访问仓库"),
    "state": (
        "directory that keeps how far the sync got (default: {default})",
        "记录同步进度的目录（默认：{default}）",
    ),
    "parallel": (
        "blobs that are sent at once (default: {default})",
        "同时传输的数据块数量（默认：{default}）",
    ),
    "dry-run": ("only show what would be done", "只显示将要执行的操作，不写入任何内容"),
    "site-files": (
        "directory for the files that nodes need to find the images here (default: site-files/ in the state)",
        "节点配置文件的输出目录（默认：进度目录中的 site-files）",
    ),
    # --- progress
    "verifying": ("verify {name}", "校验 {name}"),
    "expanding": ("expand {name} into {to}", "展开 {name} 到 {to}"),
    "planning": ("ask {host} what it has", "查询 {host} 已有内容"),
    "syncing": ("sync {name} to {host}", "同步 {name} 到 {host}"),
    "part": ("{what}: {percent} % of {size}", "{what}：已完成 {percent} %，共 {size}"),
    # --- results
    "verified": ("{name} is whole and unaltered: {id}", "{name} 校验通过，完整且未被改动：{id}"),
    "counted": (
        "read: {volumes} volumes, {blobs} blobs of {size}; complete: {images} images",
        "已读取 {volumes} 个分卷、{blobs} 个数据块（共 {size}）；完整的镜像 {images} 个",
    ),
    "needed": (
        "{blobs} more blobs must be at the site, from the base",
        "另有 {blobs} 个数据块须由现场已有的基础包提供",
    ),
    "signed": ("the signature is right", "签名正确"),
    "unsigned": (
        "no --key was given: this shows that nothing was damaged, not who made it",
        "未指定 --key：只能证明内容没有损坏，不能证明由谁制作",
    ),
    "expanded": ("{name} is expanded in {to}", "{name} 已展开到 {to}"),
    "synced": ("{name} is in {host}", "{name} 已同步到 {host}"),
    "nothing-written": ("dry run: nothing was written", "试运行：未写入任何内容"),
    "written": (
        "for the nodes (see the comments in the files):",
        "节点所需配置文件（用法见文件内注释）：",
    ),
    # --- what kind of fault an exit code stands for, and what to do
    "fault.2": (
        "Input: an argument or a file is not right. Correct what is named, and run it again.",
        "输入有误：参数或文件不正确。请按下面的提示改正后重新运行。",
    ),
    "fault.3": (
        "Something is missing on this machine. Provide what is named; use the bundle.pyz that came with the bundle.",
        "本机缺少所需的程序或功能。请按下面的提示补齐；请使用随镜像包一起提供的 bundle.pyz。",
    ),
    "fault.4": (
        "A program that was started has failed. See its last lines, and send them to headquarters if they do not help.",
        "所调用的程序运行失败。请查看下面的输出；若仍无法解决，请把全部输出发给总部。",
    ),
    "fault.5": (
        "Storage: a disk is full, read-only, or fails. Make space or choose another directory, and run it again.",
        "存储故障：磁盘已满、只读或损坏。请清理空间或换一个目录，然后重新运行。",
    ),
    "fault.6": (
        "Network or registry: cannot be reached, refuses, or breaks off. Check address, certificate and credentials, "
        "and run the same command again: it goes on where it stopped.",
        "网络或镜像仓库故障：无法连接、拒绝访问或连接中断。请检查地址、证书和账号，然后重新运行同一条命令：会从中断处继续。",
    ),
    "fault.7": (
        "The bundle is incomplete, damaged or altered, or the site lacks its base. Copy the volumes named below again; "
        "sync the base first; if the signature is wrong, do not use the bundle and ask headquarters.",
        "校验未通过：镜像包不完整、已损坏或被改动，或现场缺少其基础包。请重新拷贝所列分卷；缺基础包时先同步基础包；"
        "签名不符时请勿使用，并联系总部。",
    ),
    "fault.70": (
        "A defect of this program. Send all of its output to headquarters.",
        "程序自身的缺陷。请把全部输出发给总部。",
    ),
    "fault.130": (
        "Interrupted. Run the same command again: it goes on where it stopped.",
        "已中断。重新运行同一条命令，会从中断处继续。",
    ),
    # --- the page beside the bundle
    "no-base": ("nothing: it stands by itself", "无，可独立使用"),
    "head": ("head: contents and hashes of the others", "首卷：内容清单与其余分卷的校验和"),
    "kind.full": (
        "full: everything is in it",
        "完整包：包含全部内容",
    ),
    "kind.patch": (
        "patch: new and changed images; the site must have its base",
        "补丁包：只含新增和变化的镜像；现场必须已有其基础包",
    ),
    "kind.upgrade": (
        "upgrade: all images of the version, less what its base has",
        "升级包：该版本的全部镜像，但不含基础包已有的内容；现场必须已有其基础包",
    ),
}

FAULTS = (
    errors.InputError.exit_code,
    errors.DependencyError.exit_code,
    errors.ToolError.exit_code,
    errors.StorageError.exit_code,
    errors.NetworkError.exit_code,
    errors.VerificationError.exit_code,
    DEFECT,
    INTERRUPTED,
)


class Messages:
    """Texts in one language: ``say("verified", name="v1.2.0", id="sha256:...")``.

    Args:
        language: one of ``LANGUAGES``.
    """

    def __init__(self, language: str) -> None:
        self.language = language

    def __call__(self, key: str, **values: object) -> str:
        """Return a text with its values filled in."""
        return TEXTS[key][LANGUAGES.index(self.language)].format(**values)

    def explain(self, code: int) -> str:
        """Return what is said before an error: its kind, for those who do not read English; else nothing."""
        return self(f"fault.{code}") if self.language != "en" and f"fault.{code}" in TEXTS else ""


def language_of(environment: Mapping[str, str] = os.environ) -> str:
    """Return the language of a user's locale, if we speak it, else English."""
    named = next((environment[name] for name in VARIABLES if environment.get(name)), "")
    return "zh" if named.lower().startswith("zh") else "en"
