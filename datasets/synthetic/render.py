"""Rendering of an image: a person in front of a camera, as cut out by a detector."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from .cameras import Camera, develop, make_camera
from .draws import Draws
from .people import Look, Pose, draw_look, draw_person, in_clothes_of

VERSION = 1  # part of the fingerprint: raise it whenever a pixel changes
_SUPERSAMPLING = 3
_LOOK_ALIKES = 0.2  # share of identities in the clothes of the previous one


@dataclass(frozen=True)
class Shot:
    """The parameters of an image; identities are from 1, and 0 is a bad detection."""

    split: str
    identity: int
    camera: int
    index: int


class World:
    """The persons and cameras of one data set, created on first use.

    `seed` and `size` (H, W) determine everything, with `difficulty` 0 … 2, which scales color
    casts, occlusion and exposure.
    """

    def __init__(self, seed: int, size: tuple[int, int], difficulty: float) -> None:
        self.seed, self.size, self.difficulty = seed, size, difficulty
        self.canvas = (size[0] * _SUPERSAMPLING, size[1] * _SUPERSAMPLING)
        self._cameras: dict[int, Camera] = {}
        self._looks: dict[int, Look] = {}

    def camera(self, number: int) -> Camera:
        """Camera `number`, from 0."""
        if number not in self._cameras:
            draws = Draws(self.seed, "camera", number)
            self._cameras[number] = make_camera(draws, self.canvas, self.difficulty)
        return self._cameras[number]

    def look(self, identity: int) -> Look:
        """What a person looks like; some wear the clothes of the one before them."""
        if identity not in self._looks:
            draws = Draws(self.seed, "person", identity)
            look = draw_look(draws)
            if identity > 1 and draws.chance(_LOOK_ALIKES):
                look = in_clothes_of(look, self.look(identity - 1))
            self._looks[identity] = look
        return self._looks[identity]

    def render(self, shot: Shot) -> Image.Image:
        """The image (H, W) RGB of a shot; always the same pixels."""
        key = (self.seed, shot.split, shot.identity, shot.camera)
        # one walk past a camera: same time of day, part of the scene and direction
        walk = Draws(*key, "walk") if shot.identity else Draws(*key, shot.index, "walk")
        now = Draws(*key, shot.index)
        camera = self.camera(shot.camera)
        hour = walk.integer(6)
        place = walk.uniform(0.0, 0.8)
        heading = walk.pick(camera.headings)
        mirrored = walk.chance(0.5)

        picture = self._background(camera, shot.camera, hour, place, now)
        draw = ImageDraw.Draw(picture)
        if now.chance(0.12 * self.difficulty):
            self._passer_by(draw, now, behind=True)
        if shot.identity == 0:
            self._bad_detection(draw, shot, now)
        else:
            if now.chance(0.25):
                heading = now.pick(("front", "back", "side"))
            pose = Pose(heading, now.uniform(-1, 1), mirrored)
            self._person(draw, self.look(shot.identity), pose, camera.tallness, now)
        if now.chance(0.14 * self.difficulty):
            self._occluder(draw, now)
        elif now.chance(0.05 * self.difficulty):
            self._passer_by(draw, now, behind=False)

        picture = picture.reduce(_SUPERSAMPLING)
        softness = camera.softness * now.uniform(0.85, 1.25)
        if softness > 1.05:
            width, height = self.size[1], self.size[0]
            coarse = max(1, round(width / softness)), max(1, round(height / softness))
            small = picture.resize(coarse, Image.Resampling.BILINEAR)
            picture = small.resize((width, height), Image.Resampling.BILINEAR)
        daylight = Draws(self.seed, "hour", shot.camera, hour).uniform(0.88, 1.1)
        exposure = daylight * (1 + self.difficulty * now.uniform(-0.07, 0.07))
        light = self.difficulty * now.uniform(-0.4, 0.4)
        return Image.fromarray(develop(np.asarray(picture), camera, exposure, light, now))

    def _background(
        self, camera: Camera, number: int, hour: int, place: float, now: Draws
    ) -> Image.Image:
        """A part of the camera's scene, with the objects parked there at this hour."""
        height, width = self.canvas
        room_x, room_y = camera.scene.width - width, camera.scene.height - height
        left = min(room_x, max(0, round(room_x * (place + now.uniform(0.0, 0.2)))))
        upper = round(room_y * now.uniform())
        picture = camera.scene.crop((left, upper, left + width, upper + height))
        parked = Draws(self.seed, "hour", number, hour, "parked")
        draw = ImageDraw.Draw(picture)
        for _ in range(4):
            x = round(parked.uniform(0, camera.scene.width)) - left
            w, h = round(width * parked.uniform(0.2, 0.9)), round(height * parked.uniform(0.1, 0.3))
            y = round(height * parked.uniform(0.45, 0.75)) - upper
            level = 40 + parked.integer(130)
            fill = tuple(level + parked.integer(40) for _ in range(3))
            draw.rectangle((x, y, x + w, y + h), fill=fill)
        return picture

    def _person(
        self, draw: ImageDraw.ImageDraw, look: Look, pose: Pose, tallness: float, now: Draws
    ) -> None:
        """The detected person, with the error of the box."""
        height, width = self.canvas
        unit = height * tallness * now.uniform(0.94, 1.08)
        x = width * (0.5 + now.uniform(-0.08, 0.08))
        y = (height - unit) / 2 + height * now.uniform(-0.05, 0.05)
        ground = y + unit * 0.97
        box = (x - unit * 0.16, ground - unit * 0.03, x + unit * 0.16, ground + unit * 0.03)
        draw.ellipse(tuple(map(round, box)), fill=(58, 58, 62))  # a shadow on the floor
        draw_person(draw, look, pose, x, y, unit)

    def _passer_by(self, draw: ImageDraw.ImageDraw, now: Draws, behind: bool) -> None:
        """Another person at the edge, farther away or in front."""
        height, width = self.canvas
        look = draw_look(Draws(self.seed, "passer-by", now.integer(40)))
        unit = height * (now.uniform(0.5, 0.75) if behind else now.uniform(0.95, 1.1))
        edge = now.uniform(-0.05, 0.15) if behind else now.uniform(-0.06, 0.1)
        x = width * (edge if now.chance(0.5) else 1 - edge)
        pose = Pose(now.pick(("front", "back", "side")), now.uniform(-1, 1), now.chance(0.5))
        draw_person(draw, look, pose, x, height * now.uniform(0.04, 0.2), unit)

    def _occluder(self, draw: ImageDraw.ImageDraw, now: Draws) -> None:
        """A pole, or something low such as a car or a bench."""
        height, width = self.canvas
        level = 30 + now.integer(150)
        fill = tuple(level + now.integer(50) for _ in range(3))
        if now.chance(0.4):
            x, w = width * now.uniform(0.1, 0.9), width * now.uniform(0.08, 0.2)
            draw.rectangle((round(x), 0, round(x + w), height), fill=fill)
            return
        y = height * now.uniform(0.55, 0.82)
        x = width * now.uniform(-0.6, 0.4)
        box = (x, y, x + width * now.uniform(0.8, 1.6), float(height))
        draw.rectangle(tuple(map(round, box)), fill=fill)
        trim = tuple(c * 70 // 100 for c in fill)
        draw.rectangle((round(x), round(y), round(box[2]), round(y + height * 0.03)), fill=trim)

    def _bad_detection(self, draw: ImageDraw.ImageDraw, shot: Shot, now: Draws) -> None:
        """Background only, or half of a person who is not in the test set."""
        if now.chance(0.4):
            return
        height, width = self.canvas
        look = draw_look(Draws(self.seed, "stranger", shot.split, shot.index))
        pose = Pose(now.pick(("front", "back", "side")), now.uniform(-1, 1), now.chance(0.5))
        unit = height * now.uniform(1.0, 1.6)
        y = height * now.pick((now.uniform(0.3, 0.5), now.uniform(-0.7, -0.4)))
        draw_person(draw, look, pose, width * now.uniform(0.1, 0.9), y, unit)
