"""A real linphonec, headless: steered over its standard input, audio from and to files."""

import math
import os
import re
import struct
import subprocess
import threading
import time
import wave
from pathlib import Path


def write_tone(path, hertz, seconds=30, rate=8000):
    """A sine as a mono 16-bit WAV file."""
    with wave.open(str(path), "wb") as w:
        w.setnchannels(1)
        w.setsampwidth(2)
        w.setframerate(rate)
        w.writeframes(
            b"".join(struct.pack("<h", int(12000 * math.sin(2 * math.pi * hertz * i / rate))) for i in range(seconds * rate))
        )


class Linphone:
    """Registers `user` at `server`; `play()` sends a sine of `tone` hertz; everything heard goes to a file."""

    def __init__(self, folder, user, password, server, tone):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.user, self.tone = user, tone
        self.tone_file = self.folder / "tone.wav"
        self.heard_file = self.folder / "heard.wav"
        write_tone(self.tone_file, tone)
        (self.folder / ".local/share/linphone").mkdir(parents=True, exist_ok=True)
        (self.folder / "rc").write_text(
            "[sip]\nsip_port=-1\nsip_tcp_port=0\nsip_tls_port=0\nuse_ipv6=0\ndefault_proxy=0\nmedia_encryption=none\n"
            "[rtp]\naudio_rtp_port=-1\n"
            "[net]\nfirewall_policy=0\nstun_server=\n"
            "[sound]\nremote_ring=\nlocal_ring=\n"
            "[misc]\nenable_basic_to_client_group_chat_room_migration=0\n"
            f"[proxy_0]\nreg_proxy=<sip:{server};transport=udp>\nreg_route=<sip:{server};transport=udp;lr>\n"
            f"reg_identity=sip:{user}@{server}\nreg_expires=300\nreg_sendregister=1\npublish=0\n"
            f"[auth_info_0]\nusername={user}\npasswd={password}\nrealm=peerline\n"
        )
        self.text = ""
        self.changed = threading.Condition()
        environment = dict(os.environ, HOME=str(self.folder), XDG_CONFIG_HOME=str(self.folder), XDG_DATA_HOME=str(self.folder))
        self.process = subprocess.Popen(
            ["linphonec", "-c", str(self.folder / "rc"), "-d", "0"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            cwd=self.folder, env=environment, 
        )
        threading.Thread(target=self._read, daemon=True).start()
        self.wait("Ready|linphonec>", 20)
        self.command("soundcard use files")
        self.command(f"play {self.tone_file}")
        self.command(f"record {self.heard_file}")

    def _read(self):
        while chunk := os.read(self.process.stdout.fileno(), 65536):
            with self.changed:
                self.text += chunk.decode("utf-8", "replace")
                self.changed.notify_all()

    def command(self, text):
        self.process.stdin.write(text.encode() + b"\n")
        self.process.stdin.flush()

    def wait(self, pattern, seconds=15, start=0):
        """Waits until what it printed after position `start` matches; returns the match."""
        deadline = time.monotonic() + seconds
        with self.changed:
            while True:
                found = re.search(pattern, self.text[start:])
                if found:
                    return found.group(0)
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"{self.user}: no /{pattern}/ within {seconds} s; saw {self.text[-900:]}")
                self.changed.wait(left)

    def dial(self, who):
        self.command(f"call {who}")

    def answer(self):
        self.command("answer")

    def hang_up(self):
        """Ends the call; declines with 603 while it rings."""
        self.command("terminate")

    def recordings(self):
        """The one file that holds all that was heard."""
        return [self.heard_file]

    def stop(self):
        try:
            self.command("quit")
            self.process.wait(6)
        except (OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
