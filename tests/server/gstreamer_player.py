"""GStreamer's webrtcbin as a WHEP player, for the Python that Debian's GStreamer belongs to.

    /usr/bin/python3 gstreamer_player.py http://127.0.0.1:8000/whep/STREAM H264 24

Prints one line of JSON when so many frames were decoded, or when it gives up.
"""

import json
import sys
import urllib.error
import urllib.request

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstSdp", "1.0")
gi.require_version("GstWebRTC", "1.0")
from gi.repository import GLib, Gst, GstSdp, GstWebRTC  # noqa: E402

CAPS = {
    "H264": "encoding-name=H264,payload=102,packetization-mode=(string)1,"
    "profile-level-id=(string)42e01f",
    "VP8": "encoding-name=VP8,payload=96",
}
DECODE = {"H264": "rtph264depay ! h264parse ! avdec_h264", "VP8": "rtpvp8depay ! vp8dec"}
GATHER_MS = 1500
GIVE_UP_S = 30


class Player:
    """One pipeline, until enough frames were seen."""

    def __init__(self, url, codec, frames):
        self.url, self.codec, self.wanted = url, codec, frames
        self.seen, self.size, self.error, self.session = 0, None, None, None
        self.loop = GLib.MainLoop()
        self.pipeline = Gst.Pipeline.new()
        self.peer = Gst.ElementFactory.make("webrtcbin")
        self.peer.set_property("bundle-policy", GstWebRTC.WebRTCBundlePolicy.MAX_BUNDLE)
        self.pipeline.add(self.peer)
        # Both are kept: webrtcbin frees its agent with the last Python reference.
        self.ice = self.peer.get_property("ice-agent")
        self.agent = self.ice.get_property("agent")
        self.agent.set_property("upnp", False)
        caps = "application/x-rtp,media=video,clock-rate=90000,rtcp-fb-nack-pli=true,"
        self.peer.emit(
            "add-transceiver",
            GstWebRTC.WebRTCRTPTransceiverDirection.RECVONLY,
            Gst.Caps.from_string(caps + CAPS[codec]),
        )
        self.candidates = []
        self.peer.connect("on-ice-candidate", lambda _, index, c: self.candidates.append(c))
        self.peer.connect("on-negotiation-needed", self.negotiate)
        self.peer.connect("pad-added", self.decode)
        bus = self.pipeline.get_bus()
        bus.add_signal_watch()
        bus.connect("message::error", lambda _, message: self.end(str(message.parse_error()[0])))

    def run(self):
        self.pipeline.set_state(Gst.State.PLAYING)
        GLib.timeout_add_seconds(GIVE_UP_S, lambda: self.end("no frames in time"))
        self.loop.run()
        self.pipeline.set_state(Gst.State.NULL)
        if self.session is not None:
            urllib.request.urlopen(urllib.request.Request(self.session, method="DELETE"))
        print(json.dumps({"frames": self.seen, "size": self.size, "error": self.error}))

    def end(self, error):
        self.error = self.error or error
        self.loop.quit()
        return False

    def negotiate(self, _):
        def offered(promise, *_):
            self.reply = promise.get_reply()  # the offer borrows from it
            self.peer.emit(
                "set-local-description", self.reply.get_value("offer"), Gst.Promise.new()
            )
            GLib.timeout_add(GATHER_MS, self.post)

        self.peer.emit("create-offer", None, Gst.Promise.new_with_change_func(offered))

    def post(self):
        offer = self.peer.get_property("local-description").sdp.as_text()
        if "a=candidate" not in offer:
            offer += "".join(f"a={candidate}\r\n" for candidate in self.candidates)
        headers = {"Content-Type": "application/sdp"}
        request = urllib.request.Request(self.url, offer.encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                answer = response.read().decode()
                self.session = urllib.parse.urljoin(self.url, response.headers["Location"])
        except urllib.error.HTTPError as error:
            return self.end(f"{error.code} {error.read()[:300].decode()}")
        _, message = GstSdp.SDPMessage.new_from_text(answer)
        self.message = message  # the description takes it over
        kind = GstWebRTC.WebRTCSDPType.ANSWER
        description = GstWebRTC.WebRTCSessionDescription.new(kind, message)
        self.peer.emit("set-remote-description", description, Gst.Promise.new())
        return False

    def decode(self, _, pad):
        if pad.direction != Gst.PadDirection.SRC:
            return
        decoder = Gst.parse_bin_from_description(
            f"{DECODE[self.codec]} ! appsink name=frames emit-signals=true sync=false", True
        )
        self.pipeline.add(decoder)
        decoder.sync_state_with_parent()
        decoder.get_by_name("frames").connect("new-sample", self.count)
        pad.link(decoder.get_static_pad("sink"))

    def count(self, sink):
        caps = sink.emit("pull-sample").get_caps().get_structure(0)
        self.size = [caps.get_value("width"), caps.get_value("height")]
        self.seen += 1
        if self.seen == self.wanted:
            self.loop.quit()
        return Gst.FlowReturn.OK


if __name__ == "__main__":
    import urllib.parse

    Gst.init(None)
    Player(sys.argv[1], sys.argv[2], int(sys.argv[3])).run()
