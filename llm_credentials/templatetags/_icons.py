"""The icon set: shapes drawn for this project on a 20 px grid, stroked in the colour of the surrounding text."""

# ruff: noqa: E501 - paths are data

from typing import Final

SHAPES: Final[dict[str, str]] = {
    "agents": '<rect x="3.5" y="7" width="13" height="9.5" rx="3"/><path d="M10 7V3.5M7.5 11v1.5M12.5 11v1.5M1.5 11v2.5'
    'M18.5 11v2.5"/>',
    "conversations": '<path d="M3 6.5a3 3 0 0 1 3-3h8a3 3 0 0 1 3 3v4a3 3 0 0 1-3 3H9l-4 3v-3.3a3 3 0 0 1-2-2.7z"/>',
    "runs": '<path d="M2 10.5h3.2L8 4l4 12 2.6-5.5H18"/>',
    "settings": '<path d="M2.5 6h7M14.5 6h3M2.5 14h3M10.5 14h7"/><circle cx="12" cy="6" r="2.3"/>'
    '<circle cx="8" cy="14" r="2.3"/>',
    "key": '<circle cx="6.5" cy="13.5" r="3.8"/><path d="M9.3 10.7 17 3M13 7l2.7 2.7M15.4 4.6 17.5 6.7"/>',
    "check": '<path d="m4 10.5 4 4 8-9"/>',
    "check-circle": '<circle cx="10" cy="10" r="7.5"/><path d="m6.6 10.3 2.4 2.4 4.4-5"/>',
    "x": '<path d="m5 5 10 10M15 5 5 15"/>',
    "x-circle": '<circle cx="10" cy="10" r="7.5"/><path d="m7.3 7.3 5.4 5.4M12.7 7.3l-5.4 5.4"/>',
    "alert": '<path d="M8.6 3.6a1.6 1.6 0 0 1 2.8 0l6.2 10.9a1.6 1.6 0 0 1-1.4 2.4H3.8a1.6 1.6 0 0 1-1.4-2.4z'
    'M10 7.8v3.4M10 13.9v.1"/>',
    "info": '<circle cx="10" cy="10" r="7.5"/><path d="M10 9.2v4.3M10 6.5v.1"/>',
    "idle": '<circle cx="10" cy="10" r="7.5" stroke-dasharray="2.6 2.64"/>',
    "ticket": '<path d="M2.5 6.5v2a1.8 1.8 0 0 1 0 3.5v2h15v-2a1.8 1.8 0 0 1 0-3.5v-2zM12 6.5v7.5"/>',
    "undo": '<path d="M7 4 3.5 7.5 7 11M4 7.5h7.5a4.5 4.5 0 0 1 0 9H8"/>',
    "minus": '<path d="M5 10h10"/>',
    "plus": '<path d="M10 4v12M4 10h12"/>',
    "chevron-right": '<path d="m7.5 4.5 5.5 5.5-5.5 5.5"/>',
    "chevron-down": '<path d="m4.5 7.5 5.5 5.5 5.5-5.5"/>',
    "arrow-right": '<path d="M3.5 10h13M11.5 5l5 5-5 5"/>',
    "arrow-left": '<path d="M16.5 10h-13M8.5 5l-5 5 5 5"/>',
    "arrow-up": '<path d="M10 16.5v-13M5 8.5l5-5 5 5"/>',
    "external": '<path d="M8 4H5.5A2.5 2.5 0 0 0 3 6.5v8A2.5 2.5 0 0 0 5.5 17h8a2.5 2.5 0 0 0 2.5-2.5V12M11.5 3H17v5.5'
    'M17 3l-7.5 7.5"/>',
    "eye": '<path d="M1.8 10S4.6 4.8 10 4.8 18.2 10 18.2 10 15.4 15.2 10 15.2 1.8 10 1.8 10z"/><circle cx="10" cy="10" r="2.5"/>',
    "eye-off": '<path d="M7.6 5.1A8 8 0 0 1 10 4.8c5.4 0 8.2 5.2 8.2 5.2a14 14 0 0 1-2 2.6M12.5 14.9a8 8 0 0 1-2.5.3'
    'C4.6 15.2 1.8 10 1.8 10a14 14 0 0 1 3.4-3.8M3 3l14 14"/>',
    "trash": '<path d="M3 5.5h14M8 5.5V4a1.2 1.2 0 0 1 1.2-1.2h1.6A1.2 1.2 0 0 1 12 4v1.5M5 5.5l.7 9.7a2 2 0 0 0 2 1.8h4.6'
    'a2 2 0 0 0 2-1.8l.7-9.7M8.4 9v4.5M11.6 9v4.5"/>',
    "play": '<path d="M6 4.3v11.4a.6.6 0 0 0 .9.5l9-5.7a.6.6 0 0 0 0-1L6.9 3.8a.6.6 0 0 0-.9.5z"/>',
    "stop": '<rect x="5" y="5" width="10" height="10" rx="2"/>',
    "refresh": '<path d="M16.5 4v4h-4M3.5 16v-4h4M4.3 8a6.2 6.2 0 0 1 10.6-2.2L16.5 8M15.7 12a6.2 6.2 0 0 1-10.6 2.2L3.5 12"/>',
    "shield": '<path d="M10 2.5 3.8 4.8v4.7c0 3.8 2.6 6.5 6.2 8 3.6-1.5 6.2-4.2 6.2-8V4.8zM7.2 10l2 2 3.6-4"/>',
    "user": '<circle cx="10" cy="6.8" r="3.3"/><path d="M3.5 17c.6-3.4 3.2-5 6.5-5s5.9 1.6 6.5 5"/>',
    "building": '<rect x="4" y="3" width="12" height="14" rx="1.5"/><path d="M8 6.8h.1M12 6.8h.1M8 10h.1M12 10h.1M8.5 17v-3.5h3V17"/>',
    "log-out": '<path d="M8 17H5.5A2.5 2.5 0 0 1 3 14.5v-9A2.5 2.5 0 0 1 5.5 3H8M13 6.5l3.5 3.5-3.5 3.5M16.5 10H8"/>',
    "log-in": '<path d="M12 3h2.5A2.5 2.5 0 0 1 17 5.5v9a2.5 2.5 0 0 1-2.5 2.5H12M8 6.5l3.5 3.5L8 13.5M11.5 10H3"/>',
    "copy": '<rect x="7" y="7" width="10" height="10" rx="2"/><path d="M4.5 13A1.5 1.5 0 0 1 3 11.5v-6A2.5 2.5 0 0 1 5.5 3h6'
    'A1.5 1.5 0 0 1 13 4.5"/>',
    "clock": '<circle cx="10" cy="10" r="7.5"/><path d="M10 5.8V10l2.8 2"/>',
    "tool": '<path d="M12.8 3.2a4.3 4.3 0 0 0-5 5.7l-5 5a1.6 1.6 0 0 0 0 2.3l1 1a1.6 1.6 0 0 0 2.3 0l5-5a4.3 4.3 0 0 0 5.7-5'
    'l-2.6 2.6-2.9-.9-.9-2.9z"/>',
    "paperclip": '<path d="m16.5 9.5-6.4 6.4a4 4 0 0 1-5.7-5.7l6.8-6.8a2.7 2.7 0 0 1 3.8 3.8l-6.8 6.8a1.3 1.3 0 0 1-1.9-1.9L12.5 6"/>',
    "file": '<path d="M11.5 2.5h-5a2 2 0 0 0-2 2v11a2 2 0 0 0 2 2h7a2 2 0 0 0 2-2v-9zM11.5 2.5v4h4M7.5 11h5M7.5 14h5"/>',
    "image": '<rect x="3" y="3.5" width="14" height="13" rx="2.5"/><circle cx="7.3" cy="7.8" r="1.4"/>'
    '<path d="m3.5 14.5 4-3.8 3 2.8 2.8-2.6 3.5 3.3"/>',
    "code": '<path d="m7 6-4 4 4 4M13 6l4 4-4 4"/>',
    "research": '<path d="M4 3.5h8.5v13H4zM12.5 6.5H16v10h-3.5M6.5 7H10M6.5 10H10"/>',
    "search": '<circle cx="9" cy="9" r="5.5"/><path d="m13.2 13.2 3.8 3.8"/>',
    "mail": '<rect x="2.5" y="4" width="15" height="12" rx="2.5"/><path d="m3 6 7 5.2L17 6"/>',
    "device": '<rect x="2.5" y="3.5" width="15" height="10" rx="2"/><path d="M7 17h6M10 13.5V17"/>',
    "phone": '<rect x="5.5" y="2" width="9" height="16" rx="2.5"/><path d="M9.2 15h1.6"/>',
    "edit": '<path d="M12.6 4.4 4 13v3h3l8.6-8.6M11 6l3 3M12.6 4.4l1.1-1.1a1.5 1.5 0 0 1 2.1 0l.9.9a1.5 1.5 0 0 1 0 2.1l-1.1 1.1"/>',
    "download": '<path d="M10 3v9.5M5.5 8.5 10 13l4.5-4.5M3.5 17h13"/>',
    "route": '<circle cx="4.5" cy="15.5" r="2"/><circle cx="15.5" cy="4.5" r="2"/><path d="M6.5 15.5h5.2a3.2 3.2 0 0 0 0-6.4H8.3'
    'a2.3 2.3 0 0 1 0-4.6h5.2"/>',
    "gauge": '<path d="M4.2 15.5a7.5 7.5 0 1 1 11.6 0M10 11.5l3.2-4"/><circle cx="10" cy="12" r="1.2"/>',
    "plug": '<path d="M7 2.5V6M13 2.5V6M4.5 6h11v3.5a5.5 5.5 0 0 1-11 0zM10 15v3"/>',
    "spark": '<path d="M10 2.5 11.8 8l5.7 2-5.7 2L10 17.5 8.2 12l-5.7-2 5.7-2z"/>',
    "more": '<path d="M4.5 10h.1M10 10h.1M15.5 10h.1"/>',
    "lock": '<rect x="4" y="9" width="12" height="8.5" rx="2.2"/><path d="M6.5 9V6.5a3.5 3.5 0 0 1 7 0V9M10 12.4v1.8"/>',
    "offline": '<path d="M3 3l14 14M2 8.2A11.5 11.5 0 0 1 6 5.6M9.5 4.6A11.5 11.5 0 0 1 18 8.2M5 11.4a7.2 7.2 0 0 1 3-1.8'
    'M12.3 9.9a7.2 7.2 0 0 1 2.7 1.5M10 15.4v.1"/>',
}
