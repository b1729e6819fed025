"use strict";
for (const target of document.querySelectorAll("[data-legend]")) legend(target);
if (DATA.story) storyChapter(DATA.story);
if (DATA.placement) placementChapter(DATA.placement);
